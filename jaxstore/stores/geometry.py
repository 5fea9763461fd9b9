"""Which chunks a region of an array touches: arithmetic only, no file.

Owned here: the corners of a region, and its cut along the chunk grid. How large a chunk is, is for
the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChunkRegion:
    """The part of one chunk that a region of an array covers."""

    index: tuple[int, ...]  # of the chunk, per axis
    in_chunk: tuple[slice, ...]  # what is covered, counted from the first corner of the chunk
    in_values: tuple[slice, ...]  # the same, counted from the first corner of the region
    is_whole: bool  # nothing of the chunk is left out, counted at its full, nominal size


def chunk_regions(
    start: Sequence[int], shape: Sequence[int], chunks: Sequence[int]
) -> Iterator[ChunkRegion]:
    """Cut the region of `shape` at offset `start` along the grid of `chunks`, in C order.

    >>> for part in chunk_regions((3,), (6,), (4,)):
    ...     print(part.index, part.in_chunk[0], part.in_values[0], part.is_whole)
    (0,) slice(3, 4, None) slice(0, 1, None) False
    (1,) slice(0, 4, None) slice(1, 5, None) True
    (2,) slice(0, 1, None) slice(5, 6, None) False
    """
    axes = list(zip(start, shape, chunks, strict=True))
    for parts in _product(axes) if all(shape) else ():
        yield ChunkRegion(
            index=tuple(part.index for part in parts),
            in_chunk=tuple(part.in_chunk for part in parts),
            in_values=tuple(part.in_values for part in parts),
            is_whole=all(part.is_whole for part in parts),
        )


def region_bounds(
    name: str, region: tuple[slice, ...], shape: Sequence[int]
) -> tuple[list[int], list[int]]:
    """First corner and extent of a region of an array.

    >>> region_bounds("x", (slice(1, 9),), (4, 3))
    ([1, 0], [3, 3])
    """
    if len(region) > len(shape):
        raise IndexError(f"{name!r}: region {region} has more axes than the shape {tuple(shape)}")
    cuts = (*region, *[slice(None)] * (len(shape) - len(region)))
    bounds = [cut.indices(n) for cut, n in zip(cuts, shape, strict=True)]
    return [start for start, _, _ in bounds], [max(0, stop - start) for start, stop, _ in bounds]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A chunk region along one axis."""

    index: int
    in_chunk: slice
    in_values: slice
    is_whole: bool


def _product(axes: list[tuple[int, int, int]]) -> Iterator[tuple[_Cut, ...]]:
    """Every combination of the pieces of each axis, the last axis fastest.

    Not `itertools.product`, which makes all pieces first: a region may have 2^45 of them.
    """
    if not axes:
        yield ()
        return
    *outer, last = axes
    for parts in _product(outer):
        for part in _cuts(*last):
            yield (*parts, part)


def _cuts(start: int, length: int, chunk: int) -> Iterator[_Cut]:
    """The pieces of `[start, start + length)` between multiples of `chunk`."""
    stop = start + length
    for index in range(start // chunk, -(-stop // chunk) if length else 0):
        origin = index * chunk
        first, last = max(start, origin), min(stop, origin + chunk)
        yield _Cut(
            index=index,
            in_chunk=slice(first - origin, last - origin),
            in_values=slice(first - start, last - start),
            is_whole=last - first == chunk,
        )
