"""Rows of any jaxstore store, and of a result, through the store itself.

Owned here: the plain way, also to arrays in memory and to files that are being written.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from jaxstore.errors import BusyError
from jaxstore.sources.axes import Axes, axes_of
from jaxstore.sources.fetch import Index, RowSource
from jaxstore.sources.geometry import Array, ArrayGeometry
from jaxstore.stores.base import ArraySpec, Store
from jaxstore.stores.results import ResultGroup

READ_BYTES = 1 << 20  # less than that costs more in calls than in copies


def store_arrays(
    store: Store,
    names: Sequence[str] | None,
    *,
    axis: Axes,
    is_strict: bool,
) -> dict[str, RowSource]:
    """The arrays of an open store that holds no run; the store stays open."""
    held = Held(store.reader())
    specs = {name: store.spec(name) for name in (store.names() if names is None else names)}
    if names is None:
        specs = {name: spec for name, spec in specs.items() if spec.shape}
    axes = axes_of(axis, specs, location=store.location)
    return {
        name: StoreRows.of(geometry_of(spec, axes[name]), held, is_strict=is_strict)
        for name, spec in specs.items()
    }


@runtime_checkable
class ResultLike(Protocol):
    """An array of a result: `jaxstore.ResultArray`."""

    @property
    def group(self) -> ResultGroup:
        """The result, open."""
        ...

    @property
    def spec(self) -> ArraySpec:
        """What is shown of the array, all of it or its first items."""
        ...

    @property
    def address(self) -> str | None:
        """The same as text that `open_arrays` takes, where there is one."""
        ...


def result_rows(array: ResultLike, *, axis: int, is_strict: bool) -> RowSource:
    """The rows of an array of a result, through the result, which stays open."""
    held = Held(array.group, is_ours=False)
    return StoreRows.of(geometry_of(array.spec, axis), held, is_strict=is_strict)


def geometry_of(spec: ArraySpec, axis: int) -> ArrayGeometry:
    """How an array of a store is cut."""
    return ArrayGeometry(spec.name, spec.shape, spec.chunks, spec.dtype, axis)


def rows_at_once(chunk_rows: int, row_bytes: int) -> int:
    """Rows to ask a store for at a time: whole chunks, several where they are small."""
    return chunk_rows * max(1, READ_BYTES // max(1, chunk_rows * row_bytes))


class Held:
    """A store, or a result, whose arrays are read.

    Args:
        store: Open.
        is_ours: Whether to close it when the last array of it is let go.
    """

    def __init__(self, store: Store | ResultGroup, *, is_ours: bool = True) -> None:
        self.store = store
        if is_ours:
            weakref.finalize(self, store.close)


@dataclass(slots=True)
class StoreRows:
    """Rows through a store, which knows what may be read while it is written."""

    geometry: ArrayGeometry
    held: Held | None
    is_strict: bool = True
    is_remote: bool = False

    @classmethod
    def of(cls, stored: ArrayGeometry, held: Held, *, is_strict: bool) -> StoreRows:
        """The rows of an array with these chunks, so many at once that it is worth it."""
        chunks = [max(n, 1) for n in stored.shape]
        chunks[stored.axis] = rows_at_once(stored.sample_chunk_size, stored.row_bytes)
        return cls(replace(stored, chunks=tuple(chunks)), held, is_strict)

    @property
    def location(self) -> str:
        """Where the store is."""
        return self._opened().store.location

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """One read, which asks the store for all of them."""
        self.geometry.samples_in_chunk(chunk)
        return [(chunk,)]

    def read(self, index: Index, rows: Array) -> int:
        """Read the rows of a chunk."""
        part = self.geometry.samples_in_chunk(index[0])
        region = [slice(0, n) for n in self.geometry.shape]
        region[self.geometry.axis] = slice(part.start, part.stop)
        store = self._opened().store
        values = store.read(self.geometry.name, tuple(region), is_strict=self.is_strict)
        rows[...] = np.moveaxis(values, self.geometry.axis, 0)
        return rows.nbytes

    def close(self) -> None:
        """Let go of the store."""
        self.held = None

    def _opened(self) -> Held:
        if self.held is None:
            raise BusyError(f"{self.geometry.name!r} is closed. Open it again.")
        return self.held
