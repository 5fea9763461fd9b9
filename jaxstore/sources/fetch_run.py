"""Runs as sources of rows: a row is one draw of every chain.

Owned here: which draws of a run are rows, also while it is written or after its writer was killed,
and the fastest way to them. What a run says of itself is `fetch_run_manifest`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxstore.errors import BusyError
from jaxstore.sources.fetch import Index, RowSource, place_in
from jaxstore.sources.fetch_memory import MemoryRows
from jaxstore.sources.fetch_run_manifest import arrays_of, draws_of, leaves_of, path_of, spec_of
from jaxstore.sources.fetch_store import Held, StoreRows, rows_at_once
from jaxstore.sources.geometry import Array, ArrayGeometry
from jaxstore.stores.base import Store
from jaxstore.stores.location import open_store
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.urls import is_url

_AXIS = 1  # of the draws, in (chain, draw, ...)


@runtime_checkable
class LeafLike(Protocol):
    """The draws of one leaf of a run: `jaxstore.StoredArray`."""

    @property
    def store(self) -> Store:
        """That holds them."""
        ...

    @property
    def name(self) -> str:
        """Path of the array in the store."""
        ...

    @property
    def chains(self) -> tuple[int, ...]:
        """Which of the run."""
        ...

    @property
    def draws(self) -> tuple[int, ...]:
        """That each of them has."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(chain, draw, ...), or (draw, ...)."""
        ...

    @property
    def has_chain_axis(self) -> bool:
        """Which of the two."""
        ...

    def plain(self) -> LeafLike:
        """The same with typed keys as their key data."""
        ...

    def __getitem__(self, index: Any) -> Any: ...


@runtime_checkable
class RunLike(Protocol):
    """A run that is open: `jaxstore.Run`."""

    @property
    def leaves(self) -> Sequence[LeafLike]:
        """Its arrays of draws."""
        ...

    @property
    def sample_count(self) -> Any:
        """Committed draws of each chain."""
        ...


def open_run_arrays(
    where: Any, names: Sequence[str] | None, *, draws: Sequence[int] | None = None
) -> dict[str, RowSource]:
    """The draws of a run, a source per leaf with rows of shape (chain, ...).

    How many there are is fixed here: as many as every chain has committed and every array holds.
    Draws that only the tail beside the arrays holds, at most the last chunk of a run that is not
    complete, are no rows yet. Typed keys come as their key data. An absent chunk is an error.

    Args:
        where: A path, a URL, a handle of h5py, zarr or obstore, or a store, which stays open.
        names: Of arrays, "samples/theta", or "theta" if the run has one group; also
            "samples/iteration". None takes all leaves.
        draws: Of each chain, if not those of the last commit.

    Raises:
        MissingError: There is no such leaf; the message lists those there are.
        FormatError: What is there is damaged, or newer than this jaxstore.
        BusyError: There is no draw of every chain yet.
    """
    store = where.reader() if isinstance(where, Store) else open_store(where)
    held = Held(store)
    arrays = arrays_of(store)
    if draws is None:
        draws = draws_of(store)
    chosen = leaves_of(arrays) if names is None else names
    if not min(draws, default=0):
        raise _no_rows(store)
    named = {name: path_of(name, arrays, store.location) for name in chosen}
    specs = {path: spec_of(store, path, leaf) for path, leaf in arrays.items()}
    n_rows = min([*draws, *(spec.shape[_AXIS] for spec in specs.values())])
    if not n_rows or min(spec.shape[0] for spec in specs.values()) < len(draws):
        raise _no_rows(store)
    direct = _direct(where, store, list(dict.fromkeys(named.values())))
    sources: dict[str, RowSource] = {}
    for name, path in named.items():
        shape = (len(draws), n_rows, *specs[path].shape[2:])
        geometry = ArrayGeometry(path, shape, specs[path].chunks, specs[path].dtype, _AXIS)
        if isinstance(store, MemoryStore):
            values = store.view(path)[: len(draws), :n_rows]
            sources[name] = MemoryRows.of(path, values, _AXIS)
            continue
        found = direct.get(path)
        if found is not None and _holds(found.geometry, geometry):
            geometry = replace(geometry, chunks=found.geometry.chunks)
            sources[name] = found if found.geometry == geometry else FirstRows(geometry, found)
        else:
            sources[name] = StoreRows.of(geometry, held, is_strict=True)
    return sources


def open_leaf(leaf: LeafLike) -> RowSource:
    """The draws of one leaf, of the chains that it has."""
    n_chains = len(leaf.chains)
    if leaf.has_chain_axis and tuple(leaf.chains) == tuple(range(n_chains)):
        return open_run_arrays(leaf.store, [leaf.name], draws=leaf.draws)[leaf.name]
    plain = leaf.plain()
    axis = int(leaf.has_chain_axis)
    spec = leaf.store.spec(leaf.name)
    if not (n_rows := min([*leaf.draws, spec.shape[_AXIS]], default=0)):
        raise BusyError(f"{leaf.name!r} in {leaf.store.location} has no draw yet. Try again later.")
    shape = (*plain.shape[:axis], n_rows, *plain.shape[axis + 1 :])
    chunks = [max(n, 1) for n in shape]
    row_bytes = math.prod(shape) // n_rows * spec.dtype.itemsize
    chunks[axis] = rows_at_once(spec.chunks[_AXIS], row_bytes)
    return LeafRows(ArrayGeometry(leaf.name, shape, tuple(chunks), spec.dtype, axis), plain)


@dataclass(frozen=True, slots=True)
class LeafRows:
    """Rows of some chains of a leaf."""

    geometry: ArrayGeometry
    leaf: LeafLike
    is_remote: bool = False

    @property
    def location(self) -> str:
        """Where the run is."""
        return self.leaf.store.location

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """One read, which asks the leaf for all of them."""
        self.geometry.samples_in_chunk(chunk)
        return [(chunk,)]

    def read(self, index: Index, rows: Array) -> int:
        """Read the rows of a chunk."""
        part = self.geometry.samples_in_chunk(index[0])
        before = (slice(None),) * self.geometry.axis
        values = self.leaf[(*before, slice(part.start, part.stop))]
        rows[...] = np.moveaxis(values, self.geometry.axis, 0)
        return rows.nbytes

    def close(self) -> None:
        """Do nothing: the leaf is the user's."""


@dataclass(frozen=True, slots=True)
class FirstRows:
    """The first rows of a source; what lies behind them may still change."""

    geometry: ArrayGeometry
    source: RowSource

    @property
    def location(self) -> str:
        """Where the source is."""
        return self.source.location

    @property
    def is_remote(self) -> bool:
        """As of the source."""
        return self.source.is_remote

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """Those of the source."""
        self.geometry.samples_in_chunk(chunk)
        return self.source.stored_chunks(chunk)

    def read(self, index: Index, rows: Array) -> int:
        """Read one stored chunk; of the last, only the rows that count are kept."""
        whole = self.source.geometry
        n_rows = len(whole.samples_in_chunk(index[_AXIS]))
        if n_rows == len(rows):
            return self.source.read(index, rows)
        block = np.empty((n_rows, *whole.inner_shape), whole.dtype)
        n_bytes = self.source.read(index, block)
        place_in(self.geometry, index, rows)[...] = place_in(whole, index, block[: len(rows)])
        return n_bytes

    def close(self) -> None:
        """Let go of the source."""
        self.source.close()


def _no_rows(store: Store) -> BusyError:
    return BusyError(
        f"The run at {store.location} has no draw of every chain in its arrays yet. Open it again "
        "after a later commit."
    )


def _direct(where: Any, store: Store, paths: list[str]) -> Mapping[str, RowSource]:
    """The arrays read past the store, where nothing that counts can change meanwhile."""
    place = _place(where, store)
    if place is None:
        return {}
    if _is_hdf5(place):
        from jaxstore.sources.fetch_hdf5 import open_hdf5_arrays
        from jaxstore.stores.hdf5_record import beside_bytes

        # A file that is written, or whose writer was killed, is not what HDF5 says it is.
        if isinstance(place, (str, os.PathLike)) and beside_bytes(Path(place)) is not None:
            return {}
        return open_hdf5_arrays(place, paths, axis=_AXIS, is_strict=True)
    if not store.replaces_chunks:  # the last chunk may be half written
        return {}
    from jaxstore.sources.fetch_zarr import open_zarr_arrays

    return open_zarr_arrays(place, paths, axis=_AXIS, is_strict=True)


def _place(where: Any, store: Store) -> Any:
    """What opens the store once more, None if nothing does."""
    if not isinstance(where, Store):
        return where
    if isinstance(store, MemoryStore):
        return None
    is_there = is_url(store.location) or Path(store.location).exists()
    return store.location if is_there and not store.location.startswith("memory:") else None


def _is_hdf5(place: Any) -> bool:
    if isinstance(place, (str, os.PathLike)):
        return not is_url(place) and Path(place).is_file()
    return any(kind.__module__.partition(".")[0] == "h5py" for kind in type(place).__mro__)


def _holds(found: ArrayGeometry, wanted: ArrayGeometry) -> bool:
    """Whether an array has the rows wanted, and no other chains."""
    is_same = found.inner_shape == wanted.inner_shape and found.axis == wanted.axis
    return is_same and found.dtype == wanted.dtype and found.n_samples >= wanted.n_samples
