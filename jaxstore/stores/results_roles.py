"""Who may do what with a result, and what may be its name.

Owned here: what all formats of `results` check in the same way, and how the marks of several
writers are one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np

from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.stores.results import DONE, Marks, Role

STATUS = "_status"  # the group of the marks
_NAME = re.compile(r"[^/\\\0\ud800-\udfff]{1,255}")
_WRITER = re.compile(r"[A-Za-z0-9-]{1,100}")


def check_result_name(name: str) -> None:
    """Refuse what is no name of one group.

    >>> check_result_name("raw-peak_000")
    >>> check_result_name("../x")
    Traceback (most recent call last):
    ...
    jaxstore.errors.FormatError: '../x' is no name of a result. Give one plain part, without "/".
    """
    if not _NAME.fullmatch(name) or name in (".", "..", "zarr.json"):
        raise FormatError(f'{name!r} is no name of a result. Give one plain part, without "/".')


def check_array_name(name: str) -> None:
    """Refuse the name of an array that lies among the marks."""
    if name.split("/")[0] == STATUS:
        raise FormatError(f"{name!r}: {STATUS!r} is for the marks. Choose another name.")


def check_role(role: Role, writer: str) -> None:
    """Refuse what is no role, and a member without a name.

    >>> check_role("member", "rank-3")
    """
    if role not in get_args(Role):
        raise ValueError(f"role must be one of {', '.join(get_args(Role))}, got {role!r}")
    if role == "member" and not _WRITER.fullmatch(writer):
        raise ValueError(f"writer of a member must be letters, digits and hyphens, got {writer!r}")


def check_may(role: Role, *allowed: Role, location: str) -> None:
    """Refuse what this role is not for.

    Raises:
        BusyError: It is not.
    """
    if role not in allowed:
        had = "reader, or was closed" if role == "reader" else role
        raise BusyError(
            f"{location} is open as {had}; this is for its {' and '.join(allowed)}. "
            f"Open it with role={allowed[0]!r}."
        )


def no_result(name: str, names: Iterable[str], *, location: str) -> MissingError:
    """The error for a result that is not there."""
    return MissingError(f"no result {name!r} in {location}. There are {sorted(names)}.")


def combine_marks(of_writers: Sequence[Marks]) -> Marks:
    """One mark per unit; DONE counts before FAILED, and what is absent is to do.

    >>> combine_marks([np.array([1, 2, 0], "u1"), np.array([2, 0, 0, 2], "u1")]).tolist()
    [1, 2, 0, 2]
    """
    combined = np.zeros(max(map(len, of_writers), default=0), np.uint8)
    for marks in of_writers:
        mine = combined[: len(marks)]
        np.copyto(mine, marks, where=(marks == DONE) | (mine != DONE) & (marks != 0))
    return combined
