"""The items of an ensemble: numbers, which are made and not stored.

Owned here: a source without any array behind it, that other processes can make for themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstore.sources.fetch import Index
from jaxstore.sources.geometry import ArrayGeometry

Array = np.ndarray[Any, Any]

_DTYPE = np.dtype(np.int32)  # which JAX has with and without x64


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers 0 to n - 1 as a `RowSource`.

    >>> Numbers(3).geometry.shape, Numbers(3).take(np.arange(1, 3))
    ((3,), array([1, 2], dtype=int32))
    """

    n: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= np.iinfo(_DTYPE).max:
            raise ValueError(f"n must be in [1, {np.iinfo(_DTYPE).max}], got {self.n}")

    def __str__(self) -> str:  # how many there are is no part of where they are
        return "numbers"

    @property
    def geometry(self) -> ArrayGeometry:
        """Each is a chunk of its own, so that units are cut freely."""
        return ArrayGeometry("ensemble", (self.n,), (1,), _DTYPE)

    @property
    def location(self) -> str:
        """They lie nowhere."""
        return str(self)

    @property
    def is_remote(self) -> bool:
        """No read waits."""
        return False

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """The one of that number."""
        return [(chunk,)]

    def read(self, index: Index, rows: Array) -> int:
        """Put a number into its place."""
        rows[...] = index[0]
        return 0

    def take(self, items: Array) -> Array:
        """Some of them at once, without a look at how many there are.

        A result that has more items than are asked for is computed by whole units.
        """
        return items.astype(_DTYPE)

    def close(self) -> None:
        """Nothing is open."""
