"""Rows of any jaxstore store, through the store itself.

Owned here: the plain way, also to arrays in memory and to files that are being written.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxstore.errors import BusyError
from jaxstore.sources.fetch import Index, RowSource
from jaxstore.sources.geometry import Array, ArrayGeometry
from jaxstore.stores.base import Store

READ_BYTES = 1 << 20  # less than that costs more in calls than in copies


def store_arrays(
    store: Store,
    names: Sequence[str] | None,
    *,
    axis: int | Mapping[str, int],
    is_strict: bool,
) -> dict[str, RowSource]:
    """The arrays of an open store that holds no run; the store stays open."""
    held = Held(store.reader())
    sources: dict[str, RowSource] = {}
    for name in store.names() if names is None else names:
        spec = store.spec(name)
        if spec.shape or names is not None:
            along = axis.get(name, 0) if isinstance(axis, Mapping) else axis
            whole = ArrayGeometry(name, spec.shape, spec.chunks, spec.dtype, along)
            sources[name] = StoreRows.of(whole, held, is_strict=is_strict)
    return sources


def rows_at_once(chunk_rows: int, row_bytes: int) -> int:
    """Rows to ask a store for at a time: whole chunks, several where they are small."""
    return chunk_rows * max(1, READ_BYTES // max(1, chunk_rows * row_bytes))


class Held:
    """A store, closed when the last array of it is let go."""

    def __init__(self, store: Store) -> None:
        self.store = store
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
