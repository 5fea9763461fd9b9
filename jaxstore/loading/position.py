"""Where a loader is, as small JSON, and whether it may go on there.

Owned here: what must be equal for the same batches to come, and the words for what is not. Threads,
prefetching, memory and the number of processes are not among it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxstore.errors import FormatError, MismatchError
from jaxstore.stores.base import Json

STATE_FORMAT = 1
_MEANING = {
    "n_rows": "number of rows",
    "anchor_rows": "rows per chunk",
    "split": "rows of the split",
    "variables": "names, shapes, dtypes or shifts of the variables",
    "data": "values of the first row",
}


@dataclass(frozen=True, slots=True)
class Position:
    """The batch that comes next."""

    epoch: int
    batch: int  # of the epoch


def state_of(position: Position, identity: Mapping[str, Json]) -> dict[str, Json]:
    """A position with what it belongs to."""
    at = {"format": STATE_FORMAT, "epoch": position.epoch, "batch": position.batch}
    return {**at, **identity}


def position_in(state: Json, identity: Mapping[str, Json]) -> Position:
    """The position in a state that `state_of` made.

    Raises:
        FormatError: It is none.
        MismatchError: It belongs to other batches.
    """
    if not isinstance(state, Mapping) or state.get("format") != STATE_FORMAT:
        raise FormatError(
            f"restore: {str(state)[:100]!r} is no state of a loader, or of another version. "
            "Give what state() returned."
        )
    for field, wanted in identity.items():
        found = state.get(field)
        if found != wanted:
            what = _MEANING.get(field, field)
            raise MismatchError(
                f"restore: {what} is {found!r} in the state and {wanted!r} in this loader, so "
                "other batches would come. Make the loader as it was then, or begin anew."
            )
    return Position(_count(state, "epoch"), _count(state, "batch"))


def _count(state: Mapping[str, Json], field: str) -> int:
    n = state.get(field)
    if type(n) is not int or n < 0:
        raise FormatError(f"restore: {field} is {n!r:.50} in the state, which is no count.")
    return n
