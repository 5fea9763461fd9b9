"""A branch of an Icechunk repository as a place for runs.

Owned here: naming it, and what is said of it. Its sessions are `blobs_icechunk`'s. icechunk is not
imported: whoever has a repository has imported it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# Of what a storage tells of itself; an endpoint may hold a password.
_SHOWN = re.compile(r"^(?:path|bucket|container|prefix): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class IcechunkBranch:
    """A branch of an Icechunk repository, wherever a place is asked for.

    A repository by itself means its branch "main". The branch must be there; a run is all that is
    on it, and each commit of the run is a snapshot.
    """

    repository: Any  # icechunk.Repository
    name: str = "main"

    def __str__(self) -> str:
        found = _SHOWN.findall(str(self.repository.storage))
        return f"icechunk {'/'.join(found) or 'in memory'}, branch {self.name!r}"


def is_icechunk(where: object) -> bool:
    """Whether a place is a repository of Icechunk, a branch, or the store of a session."""
    module = type(where).__module__
    return isinstance(where, IcechunkBranch) or module.partition(".")[0] == "icechunk"


def branch_of(where: object) -> IcechunkBranch | None:
    """The branch that a place means, None for a place of another kind."""
    if isinstance(where, IcechunkBranch):
        return where
    is_repository = is_icechunk(where) and type(where).__name__ == "Repository"
    return IcechunkBranch(where) if is_repository else None
