"""What is written into a store to make a run or a storage of it: names, and the version.

Owned here: what the wing that writes and the wing that loads have to agree on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT_VERSION = 2  # 1 had no checksums and no checkpoints
MANIFEST = "jaxstore"  # attribute of the root
ITERATION = "iteration"  # of each group: the step at which each draw was taken


def told_of(record: Mapping[str, Any]) -> str:
    """A commit record in words, for a list of commits.

    >>> told_of({"state": "running", "draws": [2000, 1990]})
    'running: 3,990 draws in 2 chains'
    """
    state, draws = str(record.get("state", "a commit")), record.get("draws")
    if not isinstance(draws, list) or not all(isinstance(n, int) for n in draws):
        return state
    return f"{state}: {sum(draws):,} draws in {len(draws)} chains"
