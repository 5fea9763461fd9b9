"""What a stored array is to those who read it: chunks of rows that many threads read at once.

Owned here: the contract, and where a stored chunk lies among the rows of its chunk. Each format
has a file of its own: `fetch_zarr`, `fetch_hdf5`, `fetch_run`, `fetch_memory`; which of them a
place needs is `opening`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Protocol, runtime_checkable

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.sources.geometry import Array, ArrayGeometry

Index = tuple[int, ...]  # of a stored chunk, per stored axis


@runtime_checkable
class RowSource(Protocol):
    """The rows of one stored array. Every method may be called from several threads at once."""

    @property
    def geometry(self) -> ArrayGeometry:
        """How it is cut; fixed when it was opened."""
        ...

    @property
    def location(self) -> str:
        """Where its store is, for messages; never with credentials."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network, so that many at once are worth it."""
        ...

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """The stored chunks that hold the rows of a chunk, one read each."""
        ...

    def read(self, index: Index, rows: Array) -> int:
        """Read and decode one stored chunk into its place.

        Args:
            index: One of `stored_chunks(chunk)`.
            rows: All rows of that chunk, (len(samples_in_chunk), *inner_shape), C-contiguous,
                writable, of the geometry's dtype. Only what this stored chunk holds is written.

        Returns:
            Bytes that were fetched.

        Raises:
            FormatError: The chunk is damaged; or it is absent, and the source is strict. The
                message names array and chunk.
            OSError: It cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of files and handles that this source opened."""
        ...


def unreadable(name: str, location: str, index: Index, what: str) -> FormatError:
    """The error for a stored chunk that is damaged or absent."""
    return FormatError(
        f"{name!r} in {location}: chunk {index} {what.rstrip('.')}. Restore it from a copy, or "
        "leave its rows out of the split."
    )


def chunks_along(geometry: ArrayGeometry, chunk: int) -> list[Index]:
    """The stored chunks that hold the rows of a chunk."""
    geometry.samples_in_chunk(chunk)  # raises where there is none
    counts = [range(-(-n // c)) for n, c in zip(geometry.shape, geometry.chunks, strict=True)]
    counts[geometry.axis] = range(chunk, chunk + 1)
    return list(product(*counts))


def place_in(geometry: ArrayGeometry, index: Index, rows: Array) -> Array:
    """Where a stored chunk belongs in the rows of its chunk: a view, axes in stored order."""
    region = [
        slice(i * c, min((i + 1) * c, n))
        for i, c, n in zip(index, geometry.chunks, geometry.shape, strict=True)
    ]
    region[geometry.axis] = slice(None)
    moved: Array = np.moveaxis(rows, 0, geometry.axis)
    return moved[tuple(region)]
