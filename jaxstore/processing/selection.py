"""Which items of a source a process takes, and in which order.

Owned here: what a user may write for `select`, as plain indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from jaxstore.fingerprint import of_bytes

Items = Int64[np.ndarray, " items"]  # indices of items in the source


@dataclass(frozen=True, slots=True)
class Selection:
    """Items of a source, in the order of the result."""

    n_items: int
    indices: Items | None  # None: all, in their own order

    def items(self, start: int, stop: int) -> Items:
        """Items `start` to `stop` of the result, as indices of the source."""
        if self.indices is None:
            return np.arange(start, stop)
        return self.indices[start:stop]

    @property
    def digest(self) -> str | None:
        """What tells selections apart; None for all items."""
        if self.indices is None:
            return None
        return of_bytes(self.indices.astype("<i8").tobytes())


def select_items(select: Any, n_items: int) -> Selection:
    """Items by what a user gave.

    Args:
        select: None for all; a slice, a range, a list or array of indices in any order, repeats
            and negative ones included; or a mask, one boolean per item.
        n_items: Of the source.

    Raises:
        IndexError: There is no such item.
        ValueError: Nothing is selected, or a mask has another length.
        TypeError: It is nothing of these.

    >>> select_items([3, -1, 0], 5).items(0, 3)
    array([3, 4, 0])
    >>> select_items(slice(1, None, 2), 5).n_items
    2
    """
    if select is None:
        return Selection(n_items, None)
    if isinstance(select, slice | range):
        wanted = range(*select.indices(n_items)) if isinstance(select, slice) else select
        indices = np.asarray(wanted, np.int64)
    else:
        indices = _indices(np.asarray(select), n_items)
    if not indices.size:
        raise ValueError(f"select={select!r} takes none of the {n_items} items.")
    found = np.where(indices < 0, indices + n_items, indices)
    if wrong := indices[(found < 0) | (found >= n_items)].tolist():
        raise IndexError(f"select has item {wrong[0]}, but the source has {n_items} items.")
    if np.array_equal(found, np.arange(n_items)):
        return Selection(n_items, None)
    return Selection(len(found), found)


def _indices(given: np.ndarray[Any, Any], n_items: int) -> Items:
    if given.ndim != 1 or (given.size and given.dtype.kind not in "biu"):
        raise TypeError(
            f"select is {given.dtype} of shape {given.shape}. Give a slice, a list of indices, or "
            "a mask with one boolean per item."
        )
    if given.dtype.kind == "b":
        if len(given) != n_items:
            raise ValueError(f"select is a mask of {len(given)}, the source has {n_items} items.")
        return np.flatnonzero(given)
    return given.astype(np.int64)
