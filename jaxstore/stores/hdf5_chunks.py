"""A region of an array put together from whole chunks, wherever their bytes come from.

Owned here: what is left out of a chunk, what stands for an absent one, and the words for a damaged
one. Which chunks a region touches is `geometry`, the bytes of one chunk `hdf5_codec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.stores.geometry import chunk_regions, region_bounds
from jaxstore.stores.hdf5_codec import ChunkCodec

Array = np.ndarray[Any, Any]
Index = tuple[int, ...]  # of a chunk, per axis
Region = tuple[slice, ...]
Fetch = Callable[[Index], tuple[int, Any] | None]  # filters left out and bytes, None if absent


class ChunkError(Exception):
    """What is wrong with one chunk: "chunk (0, 3) is absent"."""

    def __init__(self, index: Index, what: str) -> None:
        super().__init__(f"chunk {index} {what}")

    def named(self, name: str, *, location: str) -> FormatError:
        """The error for a caller, who did not ask for a chunk."""
        return FormatError(
            f"{name!r} in {location}: {self}. Restore the file from a copy, or leave these rows "
            "out; `jaxstore verify` lists all such chunks."
        )


def bounded(region: Region, shape: tuple[int, ...], *, name: str) -> Region:
    """A slice with both ends for every axis, inside the shape."""
    starts, lengths = region_bounds(name, region, shape)
    return tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))


def gather(region: Region, codec: ChunkCodec, fill: Any, *, fetch: Fetch, is_strict: bool) -> Array:
    """Stored values of a bounded region.

    Args:
        region: Which of the array.
        codec: Of its chunks.
        fill: What stands for an absent chunk.
        fetch: Gives the bytes of a chunk.
        is_strict: Whether an absent chunk is an error.

    Raises:
        ChunkError: A chunk is damaged, or absent.
    """
    start = tuple(part.start for part in region)
    shape = tuple(part.stop - part.start for part in region)
    values = np.empty(shape, codec.dtype.newbyteorder("="))
    for part in chunk_regions(start, shape, codec.shape):
        found = fetch(part.index)
        if found is None:
            if is_strict:
                raise ChunkError(part.index, "is absent")
            values[part.in_values] = fill
            continue
        try:
            block = codec.decode(found[1], skipped=found[0])
        except ValueError as error:
            raise ChunkError(part.index, f"is damaged: {error}") from None
        values[part.in_values] = block[part.in_chunk]
    return values


def chunks_of(region: Region, chunks: Sequence[int]) -> Iterator[tuple[Index, Region]]:
    """Each chunk that a bounded region touches, with the part of the region inside it."""
    start = tuple(part.start for part in region)
    shape = tuple(part.stop - part.start for part in region)
    for part in chunk_regions(start, shape, chunks):
        inside = zip(start, part.in_values, strict=True)
        yield part.index, tuple(slice(a + cut.start, a + cut.stop) for a, cut in inside)


def places_of(dataset: Any) -> list[tuple[Index, tuple[int, int]]]:
    """Where each chunk of an open HDF5 dataset lies: index, then offset and bytes in the file."""
    infos: list[Any] = []
    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(infos.append)
    else:  # HDF5 before 1.12.3; slow for many chunks
        infos += map(dataset.id.get_chunk_info, range(dataset.id.get_num_chunks()))
    return [
        (
            tuple(at // n for at, n in zip(info.chunk_offset, dataset.chunks, strict=True)),
            (info.byte_offset, info.size),
        )
        for info in infos
    ]
