"""Which chunks are to be read for some rows, each once, and where each row lies in them.

Owned here: the plan as data; nothing is read. `blocks` carries out the like for whole windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from jaxstore.loading.shuffle import Rows
from jaxstore.sources.geometry import ArrayGeometry


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """One chunk of one variable."""

    name: str  # of the variable, a key of the geometries
    chunk: int
    rows: range  # of the array, all that the chunk holds


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Where each requested row of one variable lies, in the order of the request."""

    read: Rows  # its place in `ReadPlan.reads`
    within: Rows  # row of that chunk

    def __len__(self) -> int:
        return len(self.read)


@dataclass(frozen=True, slots=True, eq=False)
class ReadPlan:
    """The reads that some rows need, each once, and how to gather the rows from them."""

    reads: tuple[ChunkRead, ...]  # as the request needs them first; then by variable
    gathers: Mapping[str, Gather]

    @property
    def n_reads(self) -> int:
        """Chunks to read, of all variables."""
        return len(self.reads)


def build_read_plan(
    sample_indices: Sequence[int] | Integer[np.ndarray, " rows"],
    geometries: Mapping[str, ArrayGeometry],
) -> ReadPlan:
    """Plan to read rows of several variables, which may be chunked differently.

    Args:
        sample_indices: Rows in the order in which they are wanted; one may come twice.
        geometries: By name of the variable.

    Raises:
        IndexError: A variable has no such row.
        TypeError: Rows are not whole numbers.

    >>> g = ArrayGeometry("t2m", (10,), (4,), np.dtype("f4"))
    >>> plan = build_read_plan([9, 1, 8], {"t2m": g})
    >>> [(read.chunk, read.rows) for read in plan.reads]
    [(2, range(8, 10)), (0, range(0, 4))]
    >>> plan.gathers["t2m"].read.tolist(), plan.gathers["t2m"].within.tolist()
    ([0, 1, 0], [1, 1, 0])
    """
    rows = _whole_numbers(sample_indices)
    found: list[tuple[int, int, ChunkRead]] = []
    places: dict[str, tuple[Rows, Rows]] = {}  # which of the variable's own reads, row within
    for position, (name, geometry) in enumerate(geometries.items()):
        _check_rows(name, rows, geometry)
        chunks, within = np.divmod(rows.astype(np.int64), geometry.sample_chunk_size)
        distinct, first, which = np.unique(chunks, return_index=True, return_inverse=True)
        for chunk, at in zip(distinct.tolist(), first.tolist(), strict=True):
            read = ChunkRead(name, chunk, geometry.samples_in_chunk(chunk))
            found.append((at, position, read))
        places[name] = (which, within)
    found.sort(key=lambda entry: entry[:2])
    reads = tuple(read for _, _, read in found)
    gathers = {
        name: Gather(_numbers_of(name, reads)[which], within)
        for name, (which, within) in places.items()
    }
    return ReadPlan(reads, gathers)


def dedup_ratio(plan: ReadPlan) -> float:
    """How often a chunk that is read serves a row: rows over all variables, by reads.

    It is 1 if every row needs a chunk of its own, and at most the rows of a chunk if no row comes
    twice. A plan that reads nothing has 1.

    >>> g = ArrayGeometry("t2m", (10,), (4,), np.dtype("f4"))
    >>> dedup_ratio(build_read_plan([0, 1, 2, 9], {"t2m": g}))
    2.0
    """
    if not plan.reads:
        return 1.0
    return sum(len(gather) for gather in plan.gathers.values()) / plan.n_reads


def _numbers_of(name: str, reads: Sequence[ChunkRead]) -> Int64[np.ndarray, " chunks"]:
    """Places of the reads of one variable, by ascending chunk."""
    own = [(read.chunk, place) for place, read in enumerate(reads) if read.name == name]
    return np.asarray([place for _, place in sorted(own)], np.int64)


def _whole_numbers(sample_indices: Any) -> Integer[np.ndarray, " rows"]:
    """Rows as an array."""
    rows = np.asarray(sample_indices)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(
            f"sample_indices must be a list of whole numbers, got {rows.dtype} of shape "
            f"{rows.shape}. A mask becomes one by numpy.flatnonzero."
        )
    return rows


def _check_rows(name: str, rows: Integer[np.ndarray, " rows"], geometry: ArrayGeometry) -> None:
    """Refuse rows that are not there; negative ones do not count from the end."""
    outside = rows[(rows < 0) | (rows >= geometry.n_samples)]
    if len(outside):
        raise IndexError(f"{name!r} has rows 0 to {geometry.n_samples - 1}, not {outside[0]}")
