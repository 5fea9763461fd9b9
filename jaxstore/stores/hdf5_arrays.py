"""One dataset as an array of chunks: made, opened, written by chunks, read by regions.

Owned here: the way of whole chunks into a dataset and out of it. Which chunks a region touches is
`geometry`, how they make it up `hdf5_chunks`, the bytes of one chunk `hdf5_codec`, the way to the
dataset `hdf5_names`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np

from jaxstore.errors import FormatError, MismatchError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.dtypes import fill_value, from_stored, parse_dtype, same_dtype
from jaxstore.stores.geometry import chunk_regions
from jaxstore.stores.hdf5_attrs import DTYPE, read_all
from jaxstore.stores.hdf5_blobs import is_blob
from jaxstore.stores.hdf5_chunks import ChunkError, Index, Region, chunks_of, gather
from jaxstore.stores.hdf5_codec import ChunkCodec, codec_of
from jaxstore.stores.hdf5_direct import read_chunk, write_chunk
from jaxstore.stores.hdf5_names import find_item
from jaxstore.stores.hdf5_scales import dims_of, name_dims
from jaxstore.stores.limits import check_memory

Array = np.ndarray[Any, Any]
_HDF5_ERRORS = (OSError, RuntimeError, MemoryError)  # the last for a dataset without any chunk


class Log(Protocol):
    """Who wants to know where chunks lie."""

    def moving(self, name: str, index: Index) -> None:
        """A chunk is written; if it was there before, it may move."""
        ...

    def placed(self, name: str, index: Index, *, offset: int, n_bytes: int) -> None:
        """Now it lies there."""
        ...


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An open dataset and what is needed to read and write it."""

    name: str
    location: str  # of the store
    dataset: h5py.Dataset
    dtype: np.dtype[Any]  # what callers see
    chunks: tuple[int, ...]  # of a dataset without chunks, the whole of it
    codec: ChunkCodec | None  # None: HDF5 has to encode and decode by itself

    def spec(self, shape: tuple[int, ...]) -> ArraySpec:
        """How the array lies in the file, with the shape that counts."""
        return ArraySpec(
            name=self.name,
            shape=shape,
            chunks=self.chunks,
            dtype=self.dtype,
            dims=dims_of(self.dataset),
            attrs=read_all(self.dataset),
        )

    def write(self, start: Sequence[int], values: Array, *, log: Log | None) -> None:
        """Put stored values at an offset inside the dataset's shape."""
        if self.codec is None:
            stop = (a + n for a, n in zip(start, values.shape, strict=True))
            self.dataset[tuple(map(slice, start, stop))] = values
            return
        for part in chunk_regions(start, values.shape, self.chunks):
            origin = tuple(i * n for i, n in zip(part.index, self.chunks, strict=True))
            block = values[part.in_values]
            if not part.is_whole:
                block = self._patched(origin, part.in_chunk, block)
            data = self.codec.encode(block)
            if log is None:
                write_chunk(self.dataset, origin, data)
                continue
            log.moving(self.name, part.index)
            write_chunk(self.dataset, origin, data)
            info = self.dataset.id.get_chunk_info_by_coord(origin)
            log.placed(self.name, part.index, offset=info.byte_offset, n_bytes=info.size)

    def read(self, region: Region, *, is_strict: bool) -> Array:
        """Copy out a bounded region, as the dtype that callers see.

        Args:
            region: A slice with both ends for every axis.
            is_strict: Whether an absent chunk is an error; else it holds fill values.

        Raises:
            FormatError: A chunk is damaged, or absent.
            OSError: A foreign array cannot be read; or a filter is not installed.
            TooLargeError: This machine has less memory than that.
        """
        shape = tuple(part.stop - part.start for part in region)
        n_bytes = math.prod(shape) * self.dataset.dtype.itemsize
        check_memory(n_bytes, f"{self.name!r} in {self.location}: the region of {shape}")
        try:
            stored = self._stored(region, is_strict=is_strict)
        except ChunkError as error:
            raise error.named(self.name, location=self.location) from error.__cause__
        except (OSError, RuntimeError) as error:
            where = next((f", {text}" for text in self.damage(region)), "")
            raise OSError(
                f"{self.name!r} in {self.location}{where}: cannot be read: {error}"
            ) from error
        return from_stored(stored, self.dtype) if self.is_ours else stored

    def damage(self, region: Region) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a bounded region."""
        for index, part in chunks_of(region, self.chunks):
            try:
                self._stored(part, is_strict=True)
            except ChunkError as error:
                yield str(error)
            except (OSError, RuntimeError) as error:
                yield f"chunk {index} is damaged: {error}"

    @property
    def is_ours(self) -> bool:
        """Whether stores write this dtype; a foreign file may hold text or records."""
        return self.dtype.kind in "biufcV" and self.dtype.names is None

    def _stored(self, region: Region, *, is_strict: bool) -> Array:
        if self.codec is not None:
            # Not by HDF5: of a frame that claims gigabytes it would make them.
            fill = self.dataset.fillvalue
            return gather(region, self.codec, fill, fetch=self._fetch, is_strict=is_strict)
        if is_strict and self.dataset.chunks is not None:
            for index, _ in chunks_of(region, self.chunks):
                if not self._is_present(index):
                    raise ChunkError(index, "is absent")
        return np.asarray(self.dataset[region])

    def _fetch(self, index: Index) -> tuple[int, Any] | None:
        origin = tuple(i * n for i, n in zip(index, self.chunks, strict=True))
        try:
            return read_chunk(self.dataset, origin)
        except _HDF5_ERRORS:
            if not self._is_present(index):  # asked only now: it takes a walk over all chunks
                return None
        try:
            # It is there by now: another thread may have written it since.
            return read_chunk(self.dataset, origin)
        except _HDF5_ERRORS as error:
            raise ChunkError(index, f"cannot be read: {error}") from error

    def _is_present(self, index: Index) -> bool:
        origin = tuple(i * n for i, n in zip(index, self.chunks, strict=True))
        return self.dataset.id.get_chunk_info_by_coord(origin).byte_offset is not None

    def _patched(self, origin: tuple[int, ...], covered: Region, values: Array) -> Array:
        """The chunk at `origin` with `values` in it; read only if they leave out some of it."""
        assert self.codec is not None
        block = np.full(self.chunks, self.dataset.fillvalue, self.codec.dtype)
        present = tuple(
            slice(0, min(n, size - first))
            for first, n, size in zip(origin, self.chunks, self.dataset.shape, strict=True)
        )
        if covered != present:
            region = tuple(slice(a, a + p.stop) for a, p in zip(origin, present, strict=True))
            try:
                block[present] = self._stored(region, is_strict=False)
            except ChunkError as error:
                raise error.named(self.name, location=self.location) from None
        block[covered] = values
        return block


def find_array(root: h5py.Group, name: str, *, location: str) -> StoredArray | None:
    """The array of a name, None if there is none.

    Raises:
        FormatError: Its data lie in other files.
    """
    dataset = find_item(root, name, location=location)
    if not isinstance(dataset, h5py.Dataset) or is_blob(dataset):
        return None
    if dataset.external or dataset.is_virtual:
        kind = "virtual" if dataset.is_virtual else "external"
        raise FormatError(
            f"{name!r} in {location}: its data lie in other files ({kind} storage), which are not "
            "read. Copy it into a plain dataset first, for example with h5repack."
        )
    return StoredArray(
        name=name,
        location=location,
        dataset=dataset,
        dtype=_dtype(dataset),
        chunks=dataset.chunks or tuple(max(n, 1) for n in dataset.shape),
        codec=codec_of(dataset),
    )


def make_array(
    group: h5py.Group, leaf: str, spec: ArraySpec, *, dtype: np.dtype[Any], filters: dict[str, Any]
) -> h5py.Dataset:
    """A new dataset that may grow along every axis, with its dimensions named."""
    options: dict[str, Any] = {}
    if spec.shape:  # HDF5 has neither chunks nor filters for a single value
        options = {"chunks": spec.chunks, "maxshape": (None,) * len(spec.shape), **filters}
    fill = fill_value(spec.dtype)
    dataset = group.create_dataset(leaf, spec.shape, dtype, fillvalue=fill, **options)
    if dtype != spec.dtype:
        dataset.attrs[DTYPE] = spec.dtype.name
    name_dims(group, dataset, spec.dims)
    return dataset


def check_write(array: StoredArray, start: Sequence[int], values: Array) -> None:
    """Refuse values that are not of this array, before HDF5 casts or broadcasts them."""
    same_dtype(array.name, values, array.dtype)
    ndim = len(array.chunks)
    if values.ndim != ndim or len(start) != ndim or min(start, default=0) < 0:
        raise MismatchError(
            f"{array.name!r} has {ndim} axes, so values of shape {values.shape} cannot be put at "
            f"{tuple(start)}."
        )


def kept_shape(
    old: tuple[int, ...], new: tuple[int, ...], extent: tuple[int, ...], *, name: str
) -> tuple[int, ...]:
    """Shape of the dataset when `new` is published in place of `old`."""
    if len(new) != len(old):
        raise MismatchError(
            f"{name!r} has shape {old}, so it cannot become {new}. Give one size per axis."
        )
    # What lies beyond a growing axis stays for the next resize; a shrinking one is cut.
    return tuple(max(n, e) if n >= o else n for n, o, e in zip(new, old, extent, strict=True))


def _dtype(dataset: h5py.Dataset) -> np.dtype[Any]:
    if (name := dataset.attrs.get(DTYPE)) is not None:
        return parse_dtype(str(name))
    dtype: np.dtype[Any] = dataset.dtype.newbyteorder("=")
    return dtype
