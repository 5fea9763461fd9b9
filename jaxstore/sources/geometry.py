"""Where the rows of one stored array lie: arithmetic only, no file.

Owned here: rows, chunks of rows, and the short last chunk. Chunks along the other axes are the
business of `fetch` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ArrayGeometry:
    """How one stored array is cut into rows and chunks.

    A row is an index of the sample axis; whatever the axis is in the store, rows are given with it
    first: (n_samples, *inner_shape).

    Args:
        name: Path inside the store, "samples/theta".
        shape: As stored.
        chunks: As stored; for sharded arrays the shards, since one is read as a whole.
        dtype: Of the elements.
        axis: The sample axis; a negative one counts from the end.

    Raises:
        ValueError: Shape, chunks and axis do not go together.

    >>> g = ArrayGeometry("t2m", (10, 3), (4, 3), np.dtype("f4"))
    >>> g.n_samples, g.n_chunks, g.chunk_of(9), g.samples_in_chunk(2)
    (10, 3, 2, range(8, 10))
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    axis: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.chunks) or not self.shape:
            raise ValueError(
                f"{self.name!r}: shape {self.shape} and chunks {self.chunks} must have one entry "
                "per axis, and there must be an axis to take rows from"
            )
        if min(self.chunks) < 1:
            raise ValueError(f"{self.name!r}: chunks must be >= 1, got {self.chunks}")
        if not -len(self.shape) <= self.axis < len(self.shape):
            raise ValueError(
                f"{self.name!r}: axis {self.axis} is none of an array of shape {self.shape}"
            )
        object.__setattr__(self, "axis", self.axis % len(self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def n_samples(self) -> int:
        """Rows."""
        return self.shape[self.axis]

    @property
    def sample_chunk_size(self) -> int:
        """Rows per chunk; the last chunk may be short."""
        return self.chunks[self.axis]

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return _without(self.shape, self.axis)

    @property
    def inner_chunks(self) -> tuple[int, ...]:
        """Extent of a stored chunk along the axes of a row."""
        return _without(self.chunks, self.axis)

    @property
    def n_chunks(self) -> int:
        """Chunks along the sample axis."""
        return -(-self.n_samples // self.sample_chunk_size)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, decoded."""
        return math.prod(self.inner_shape) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, decoded."""
        return self.row_bytes * self.n_samples

    def chunk_of(self, row: int) -> int:
        """The chunk that holds a row.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < self.n_samples:
            raise IndexError(f"{self.name!r} has rows 0 to {self.n_samples - 1}, not {row}")
        return row // self.sample_chunk_size

    def samples_in_chunk(self, chunk: int) -> range:
        """The rows of a chunk.

        Raises:
            IndexError: There is no such chunk.
        """
        if not 0 <= chunk < self.n_chunks:
            raise IndexError(f"{self.name!r} has chunks 0 to {self.n_chunks - 1}, not {chunk}")
        start = chunk * self.sample_chunk_size
        return range(start, min(start + self.sample_chunk_size, self.n_samples))


def _without(sizes: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*sizes[:axis], *sizes[axis + 1 :])
