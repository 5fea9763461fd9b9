"""Rows of an HDF5 dataset read past HDF5: `pread`, and our own decoding.

Owned here: where the chunks lie, their bytes, and the way of both into the rows of a caller. Which
datasets can be read so is `fetch_hdf5`, the filters are `fetch_hdf5_codec`.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import BusyError
from jaxstore.sources.fetch import Index, chunks_along, place_in, unreadable
from jaxstore.sources.fetch_hdf5_codec import HEAD_BYTES, TAIL_BYTES, ChunkDecoder
from jaxstore.sources.fetch_scratch import Scratch
from jaxstore.sources.geometry import Array, ArrayGeometry
from jaxstore.stores.hdf5_file import let_write

_NOWHERE = 2**64 - 1  # what HDF5 says of a chunk that has no place


class DataFile:
    """An open HDF5 file, shared by its arrays, let go when the last of them lets go of it.

    Args:
        file: Open.
        is_ours: Whether to close it.
        has_descriptor: Whether its bytes can be read past HDF5: a plain file that stays as it is.
    """

    def __init__(self, file: h5py.File, *, is_ours: bool, has_descriptor: bool) -> None:
        self.lock = threading.Lock()  # guards every call of HDF5 on this file
        self.scratch = Scratch()
        self.n_bytes = 0
        self._file = file if is_ours else None
        if is_ours:
            weakref.finalize(self, file.close)
        if has_descriptor:
            # A copy: the user may close what is theirs while a thread still reads.
            self._descriptor = os.dup(file.id.get_vfd_handle())
            weakref.finalize(self, os.close, self._descriptor)
            self.n_bytes = os.fstat(self._descriptor).st_size

    def unlock(self) -> None:
        """Let others write the file, who leave what is read of it as it is."""
        if self._file is not None:
            let_write(self._file, self)

    def fill(self, buffer: Array, offset: int) -> None:
        """Read bytes of the file into all of a contiguous buffer.

        Raises:
            ValueError: The file ends before.
        """
        view = memoryview(buffer.reshape(-1).view(np.uint8))
        while view.nbytes:
            n = os.preadv(self._descriptor, [view], offset)
            if n == 0:
                raise ValueError(f"is cut short: {view.nbytes} bytes of it are beyond the file")
            view, offset = view[n:], offset + n

    def check(self, offset: int, n_bytes: int) -> None:
        """Refuse a place that the file does not have, before memory is taken for it.

        Raises:
            ValueError: It does not.
        """
        if offset + n_bytes > self.n_bytes:
            raise ValueError(f"is cut short: the file ends before its {n_bytes} bytes do")


@dataclass(frozen=True, slots=True)
class ChunkPlaces:
    """Where the chunks of one dataset lie, by their flat index, ascending."""

    grid: tuple[int, ...]
    keys: Array  # int64
    offsets: Array  # uint64
    sizes: Array  # uint64, bytes in the file
    skipped: Array  # uint32, filters left out

    def find(self, index: Index) -> tuple[int, int, int] | None:
        """Offset, bytes and filters left out; None if it was never written."""
        key = int(np.ravel_multi_index(index, self.grid))
        at = int(np.searchsorted(self.keys, key))
        if at == self.keys.size or self.keys[at] != key:
            return None
        return int(self.offsets[at]), int(self.sizes[at]), int(self.skipped[at])


def may_have_plain_edges(places: ChunkPlaces, dataset: h5py.Dataset, n_bytes: int) -> bool:
    """Whether chunks that reach beyond the shape may lie there without filters, and nobody tells.

    A program may have asked HDF5 for that (H5Pset_chunk_opts). h5py does not show it, and the mask
    of such a chunk says that it has all filters; but then it has all its bytes.

    Args:
        places: Of the chunks of the dataset.
        dataset: That has filters.
        n_bytes: Of a decoded chunk.
    """
    shape, chunks = np.array(dataset.shape), np.array(dataset.chunks)
    indices = np.stack(np.unravel_index(places.keys, places.grid), axis=1)
    is_edge = ((indices + 1) * chunks > shape).any(axis=1)
    return bool((is_edge & (places.sizes == n_bytes) & (places.skipped == 0)).any())


def chunk_places(dataset: h5py.Dataset) -> ChunkPlaces:
    """Ask HDF5, once."""
    chunks = np.asarray(dataset.chunks)
    grid = tuple(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    rows: list[tuple[Any, ...]] = []
    corners: list[tuple[int, ...]] = []

    def note(info: Any) -> None:
        corners.append(info.chunk_offset)
        rows.append((info.byte_offset, info.size, info.filter_mask))

    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(note)
    else:  # HDF5 before 1.12.3; slow for many chunks
        for i in range(dataset.id.get_num_chunks()):
            note(dataset.id.get_chunk_info(i))
    known = [i for i, row in enumerate(rows) if row[0] is not None and row[0] != _NOWHERE]
    indices = np.array([corners[i] for i in known], np.int64).reshape(-1, len(grid)) // chunks
    # Chunks outside of the shape may be left from a larger one.
    is_inside = (indices < grid).all(axis=1)
    keys = np.ravel_multi_index(tuple(indices[is_inside].T), grid)
    order = np.argsort(keys)
    fields = [np.array([rows[i][k] for i in known], np.uint64)[is_inside][order] for k in range(3)]
    return ChunkPlaces(grid, keys[order], fields[0], fields[1], fields[2])


@dataclass(slots=True)
class ChunkedRows:
    """The rows of a chunked dataset."""

    geometry: ArrayGeometry
    location: str
    stored: np.dtype[Any]  # as it lies in the file, byte order included
    fill: Any  # what stands for an absent chunk, in `stored`
    decoder: ChunkDecoder
    places: ChunkPlaces
    is_strict: bool
    file: DataFile | None
    is_remote: bool = False

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """One read each."""
        return chunks_along(self.geometry, chunk)

    def read(self, index: Index, rows: Array) -> int:
        """Read and decode one stored chunk into its place."""
        file = opened(self.file, self.geometry.name, self.location)
        target = place_in(self.geometry, index, rows.view(self.stored.newbyteorder("=")))
        place = self.places.find(index)
        try:
            if place is None:
                if self.is_strict:
                    raise ValueError("is absent")
                target[...] = self.fill
                return 0
            file.check(*place[:2])
            self._read(file, place, target)
        except ValueError as error:
            raise unreadable(self.geometry.name, self.location, index, str(error)) from None
        return place[1]

    def close(self) -> None:
        """Let go of the file."""
        self.file = None

    def _read(self, file: DataFile, place: tuple[int, int, int], target: Array) -> None:
        offset, n_packed, skipped = place
        chunks = self.geometry.chunks
        is_native = target.dtype == self.stored
        # Of the last chunk only the rows that count are read, where they lie together.
        lies_together = is_native and target.flags.c_contiguous and target.shape[1:] == chunks[1:]
        n_bytes = self.decoder.n_bytes
        if self.decoder.is_plain(skipped):
            if n_packed != n_bytes:
                raise ValueError(f"holds {n_packed} bytes, a chunk has {n_bytes}")
            if lies_together:
                file.fill(target, offset)
                return
            block = file.scratch.decoded(n_bytes)
            file.fill(block, offset)
        else:
            data = file.scratch.encoded(HEAD_BYTES + n_packed + TAIL_BYTES)
            file.fill(data[HEAD_BYTES : HEAD_BYTES + n_packed], offset)
            if lies_together and target.shape == chunks:
                block = target.reshape(-1).view(np.uint8)
            else:
                block = file.scratch.decoded(n_bytes)
            self._decode(file, data, block, skipped=skipped)
            if lies_together and target.shape == chunks:
                return
        whole = block.view(self.stored).reshape(chunks)
        target[...] = whole[tuple(map(slice, target.shape))]

    def _decode(self, file: DataFile, data: Array, out: Array, *, skipped: int) -> None:
        def spare(n_bytes: int) -> Array:
            return file.scratch.unpacked(n_bytes)

        try:
            self.decoder.decode(data, out, skipped=skipped, spare=spare)
        except ValueError as error:
            raise ValueError(f"is damaged: {error}") from None


@dataclass(slots=True)
class ContiguousRows:
    """The rows of a dataset that has no chunks; those of the geometry are cut by us."""

    geometry: ArrayGeometry
    location: str
    stored: np.dtype[Any]
    offset: int  # of its first element in the file
    file: DataFile | None
    is_remote: bool = False

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """One read each."""
        return chunks_along(self.geometry, chunk)

    def read(self, index: Index, rows: Array) -> int:
        """Read one chunk of rows into its place."""
        g = self.geometry
        file = opened(self.file, g.name, self.location)
        target = place_in(g, index, rows.view(self.stored.newbyteorder("=")))
        item_bytes = self.stored.itemsize * math.prod(g.shape[g.axis + 1 :])
        start = self.offset + index[g.axis] * g.sample_chunk_size * item_bytes
        try:
            if g.axis == 0 and target.dtype == self.stored:
                file.fill(target, start)
                return target.nbytes
            block = file.scratch.decoded(target.nbytes)
            runs = block.reshape(math.prod(target.shape[: g.axis]), -1)
            for i, run in enumerate(runs):  # one per index of the axes before
                file.fill(run, start + i * g.n_samples * item_bytes)
        except ValueError as error:
            raise unreadable(g.name, self.location, index, str(error)) from None
        target[...] = block.view(self.stored).reshape(target.shape)
        return target.nbytes

    def close(self) -> None:
        """Let go of the file."""
        self.file = None


def opened[T](file: T | None, name: str, location: str) -> T:
    """The file, if it was not closed.

    Raises:
        BusyError: It was.
    """
    if file is None:
        raise BusyError(f"{name!r} in {location} is closed. Open it again.")
    return file
