"""Lazy arrays of snapshots, the snapshot axis last, over what is stored snapshot-first.

Owned here: indexing that reads only what is asked for, from a store, from what still waits in
memory, and across the results of several ranks. Which snapshots count is told by others.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxstore.saving.block import HostArray
from jaxstore.stores.indexing import split_index

Region = tuple[slice, ...]


class Snapshot(NamedTuple):
    """One snapshot on the host, a private copy."""

    time: float
    data: HostArray  # (d_X, N), or any other shape


class Source(Protocol):
    """What snapshots are read from: a store, or the stream that writes one."""

    @property
    def location(self) -> str:
        """Where it is."""
        ...

    def read(self, name: str, region: Region = ()) -> HostArray:
        """Copy out a region of an array."""
        ...


def no_snapshots() -> HostArray:
    """Data where nothing was kept yet, so that shape and dtype are unknown: (d_X, N, M) of 0."""
    return np.empty((0, 0, 0))


class LazyArray(ABC):
    """What NumPy and plotting ask of an array; a subclass says how a region is read."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype

    @abstractmethod
    def read(self, region: Region) -> HostArray:
        """Copy out a region: one slice of step one, inside the shape, for every axis."""

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, decoded."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        region, inside = split_index(index, self.shape)
        return self.read(region)[inside]

    def __array__(
        self,
        dtype: Any = None,
        copy: bool | None = None,  # noqa: FBT001 -- NumPy's protocol
    ) -> HostArray:
        if copy is False:
            raise ValueError(f"{self!r} is not in memory, so it cannot be given without a copy")
        return np.asarray(self[...], dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype}>"


class SnapshotArray(LazyArray):
    """An array of a store, its first axis last; the shape is (*inner, n_snapshots).

    Args:
        source: To read from; what lies there below `n_stored` never changes again.
        name: Of the array there.
        inner: Shape of one snapshot.
        dtype: Of the elements.
        n_stored: Snapshots to take from the source.
        rest: Those that follow, in memory.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        inner: tuple[int, ...],
        dtype: np.dtype[Any],
        n_stored: int,
        rest: tuple[HostArray, ...] = (),
    ) -> None:
        super().__init__((*inner, n_stored + len(rest)), dtype)
        self._source = source
        self._name = name
        self._n_stored = n_stored
        self._rest = rest

    def read(self, region: Region) -> HostArray:
        """Copy out a region."""
        *inner, rows = region
        from_store = slice(min(rows.start, self._n_stored), min(rows.stop, self._n_stored))
        parts = []
        if from_store.start < from_store.stop:
            parts.append(self._source.read(self._name, (from_store, *inner)))
        parts += [
            values[tuple(inner)][None]
            for values in self._rest[
                max(0, rows.start - self._n_stored) : max(0, rows.stop - self._n_stored)
            ]
        ]
        if not parts:
            extents = [part.stop - part.start for part in (rows, *inner)]
            parts = [np.empty(extents, self.dtype)]
        # A lone part may be a view of what waits, which callers must not change.
        joined = np.concatenate(parts) if len(parts) > 1 or self._rest else parts[0]
        return np.moveaxis(joined, 0, -1)

    def __repr__(self) -> str:
        return f"<SnapshotArray {self._name} {self.shape} {self.dtype} in {self._source.location}>"


class EnsembleArray(LazyArray):
    """Arrays of several ranks, one after the other along an axis; nothing is copied to join them.

    Args:
        parts: Lazy or NumPy arrays of one dtype, equal in shape but for the axis.
        axis: Counted from the front.
        n_snapshots: That all parts have, and of which this has no more.
    """

    def __init__(self, parts: tuple[Any, ...], *, axis: int, n_snapshots: int) -> None:
        shape = list(parts[0].shape)
        lengths = [part.shape[axis] for part in parts]
        shape[axis], shape[-1] = sum(lengths), n_snapshots
        super().__init__(tuple(shape), parts[0].dtype)
        self._parts = parts
        self._axis = axis
        self._starts = list(itertools.accumulate(lengths, initial=0))

    def read(self, region: Region) -> HostArray:
        """Copy out a region, from those ranks alone that hold some of it."""
        wanted = region[self._axis]
        found = []
        for part, start in zip(self._parts, self._starts, strict=False):
            stop = start + part.shape[self._axis]
            first, last = max(wanted.start, start), min(wanted.stop, stop)
            if first < last:
                inner = list(region)
                inner[self._axis] = slice(first - start, last - start)
                found.append(np.asarray(part[tuple(inner)]))
        if not found:
            return np.empty([part.stop - part.start for part in region], self.dtype)
        return np.concatenate(found, axis=self._axis)
