"""The HDF5 store: chunked datasets in groups, named as netCDF-4 names them.

Owned here: how the Store protocol lies in an HDF5 file. When the file is open is `hdf5_handle`,
one dataset `hdf5_arrays`, dimension names `hdf5_scales`, attributes `hdf5_attrs`, the commit record
`hdf5_record`.

Every chunk is encoded here and handed to HDF5 whole, so encoding runs beside HDF5's lock and all
chunks carry their checksum. The commit record lies beside the file while it is written, where it
can be replaced atomically, and moves into the file when the store is sealed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import MismatchError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import stored_dtype, to_stored
from jaxstore.stores.hdf5_arrays import StoredArray, find_array, make_array
from jaxstore.stores.hdf5_attrs import COMMIT, encode_all, read_all
from jaxstore.stores.hdf5_codec import filter_options
from jaxstore.stores.hdf5_handle import FileHandle, GroupHandle, Handle, Opened
from jaxstore.stores.hdf5_labels import check_labels, is_labels, read_labels, write_labels
from jaxstore.stores.hdf5_names import array_names, find_item, free_place, make_group, missing
from jaxstore.stores.hdf5_record import (
    parse_record,
    read_record,
    record_path,
    refuse_orphan,
    replace_record,
)
from jaxstore.stores.hdf5_scales import fit_dims


class HDF5Store:
    """Arrays in an HDF5 file or group; made by `new`, `open` or `adopt`.

    `zstd` chunks always carry a checksum; `checksum` decides for `lz4` and uncompressed ones.
    """

    def __init__(self, handle: Handle, *, compression: str | None, checksum: bool) -> None:
        self._handle = handle
        self._compression = compression
        self._checksum = checksum
        # Arrays that `write` grew further than `resize` has published; the dataset has the larger
        # shape, since HDF5 takes no chunk outside of it.
        self._published: dict[str, tuple[int, ...]] = {}

    @classmethod
    def new(
        cls, path: str | PathLike[str], *, compression: str | None = "zstd", checksum: bool = True
    ) -> HDF5Store:
        """Make a new file, and the directories above it.

        `compression` is "zstd", "lz4" (by Blosc) or None. What is there raises ExistsError.
        """
        path = Path(path)
        filter_options(compression, checksum=checksum)  # refused before there is a file
        refuse_orphan(path)
        return cls(FileHandle.create(path), compression=compression, checksum=checksum)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        mode: str = "r",
        compression: str | None = "zstd",
        checksum: bool = True,
    ) -> HDF5Store:
        """Open a file that is there, mode "r" or "r+".

        `compression` and `checksum` are those of arrays made from now on.

        Raises MissingError, FormatError, or BusyError if another process writes to it.
        """
        if mode not in ("r", "r+"):
            raise ValueError(f"mode must be 'r' or 'r+', got {mode!r}")
        handle = FileHandle.open(Path(path), is_writable=mode == "r+")
        return cls(handle, compression=compression, checksum=checksum)

    @classmethod
    def adopt(
        cls, group: h5py.Group, *, compression: str | None = "zstd", checksum: bool = True
    ) -> HDF5Store:
        """Work in a file or group that the user has opened; `close` leaves it open."""
        return cls(GroupHandle(group), compression=compression, checksum=checksum)

    @property
    def location(self) -> str:
        """Path of the file, and of the group if it is not the root."""
        return self._handle.location

    @property
    def replaces_chunks(self) -> bool:
        """Whether a rewritten chunk is, at any moment, the old or the new one: HDF5 overwrites."""
        return False

    def create(self, spec: ArraySpec) -> None:
        """Make a chunked dataset that may grow along every axis."""
        attrs = encode_all(spec.attrs, name=spec.name)
        filters = filter_options(self._compression, checksum=self._checksum)
        dtype = stored_dtype(spec.dtype)
        with self._handle.writing() as opened:
            group, leaf = free_place(opened.root, spec.name, location=self.location)
            make_array(group, leaf, spec, dtype=dtype, filters=filters).attrs.update(attrs)

    def names(self) -> list[str]:
        """Names of all arrays below the root, sorted."""
        with self._handle.reading() as opened:
            return array_names(opened.root)

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here; dimensions without a name in the file are `dim_0` and so on."""
        with self._handle.reading() as opened:
            array = self._array(opened, name)
            return array.spec(self._shape(array))

    def write(self, name: str, start: Sequence[int], values: np.ndarray[Any, Any]) -> None:
        """Put `values` at offset `start`."""
        values = np.asarray(values)
        with self._handle.writing() as opened:
            array = self._array(opened, name)
            _check_write(array, start, values)
            if not values.size:
                return
            extent = array.dataset.shape
            reach = (a + n for a, n in zip(start, values.shape, strict=True))
            grown = tuple(map(max, extent, reach))
            if grown != extent:
                self._published.setdefault(name, extent)
                array.dataset.resize(grown)
            array.write(start, to_stored(values))

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Publish a new shape."""
        new = tuple(map(int, shape))
        with self._handle.writing() as opened:
            array = self._array(opened, name)
            extent: tuple[int, ...] = array.dataset.shape
            old = self._published.get(name, extent)
            kept = _kept_shape(old, new, extent, name=name)
            if kept != extent:
                array.dataset.resize(kept)
            fit_dims(array.dataset, old, new)
            self._published.pop(name, None)
            if kept != new:
                self._published[name] = new

    def read(self, name: str, region: tuple[slice, ...] = ()) -> np.ndarray[Any, Any]:
        """Copy out a region."""
        with self._handle.reading() as opened:
            array = self._array(opened, name)
            return array.read(_bounded(region, self._shape(array), name=name))

    def attrs(self, name: str = "") -> dict[str, Json]:
        """Attributes of the root, of a group, or of an array."""
        with self._handle.reading() as opened:
            item = find_item(opened.root, name, location=self.location)
            if item is None:
                raise missing(opened.root, name, location=self.location)
            return read_all(item)

    def set_attrs(self, attrs: Mapping[str, Json], name: str = "") -> None:
        """Add or replace attributes."""
        encoded = encode_all(attrs, name=name)
        with self._handle.writing() as opened:
            item = find_item(opened.root, name, location=self.location)
            if item is None:
                item = make_group(opened.root, name, location=self.location)
            item.attrs.update(encoded)

    def commit(self, record: Mapping[str, Json]) -> None:
        """Flush, then replace the record beside the file; in an adopted file, the attribute."""
        text = json.dumps(dict(record))
        with self._handle.writing() as opened:
            opened.root.file.flush()
            if self._handle.path is None:
                opened.root.attrs[COMMIT] = text
                opened.root.file.flush()
        if self._handle.path is not None:
            replace_record(self._handle.path, text)

    def committed(self) -> dict[str, Json] | None:
        """The record beside the file if there is one, else the one inside."""
        text = read_record(self._handle.path)
        if text is None:
            with self._handle.reading() as opened:
                text = opened.root.attrs.get(COMMIT)
        return None if text is None else parse_record(text, location=self.location)

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Make a coordinate of strings, which `names` does not list."""
        check_labels(labels, name=name)
        with self._handle.writing() as opened:
            group, leaf = free_place(opened.root, name, location=self.location)
            write_labels(group, leaf, labels)

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate, None where there are none."""
        with self._handle.reading() as opened:
            item = find_item(opened.root, name, location=self.location)
            return read_labels(item) if is_labels(item) else None

    def seal(self) -> None:
        """Cut what was never published, move the record into the file, and release the file."""
        text = read_record(self._handle.path)
        if self._handle.is_writable and (self._published or text is not None):
            with self._handle.writing() as opened:
                for name, shape in self._published.items():
                    self._array(opened, name).dataset.resize(shape)
                self._published.clear()
                if text is not None:
                    opened.root.attrs[COMMIT] = text
                opened.root.file.flush()
            if self._handle.path is not None:
                record_path(self._handle.path).unlink(missing_ok=True)
        self._handle.release()

    def reader(self) -> HDF5Store:
        """A store for reading the same file, or the same group of a user's file."""
        handle = self._handle.reader()
        return HDF5Store(handle, compression=self._compression, checksum=self._checksum)

    def close(self) -> None:
        """Let go of the file; an adopted one is flushed and stays open."""
        self._handle.close()

    def _array(self, opened: Opened, name: str) -> StoredArray:
        if (array := opened.arrays.get(name)) is None:
            array = find_array(opened.root, name, location=self.location)
            if array is None:
                raise missing(opened.root, name, location=self.location)
            opened.arrays[name] = array
        return array

    def _shape(self, array: StoredArray) -> tuple[int, ...]:
        extent: tuple[int, ...] = array.dataset.shape
        return self._published.get(array.name, extent)


def _check_write(array: StoredArray, start: Sequence[int], values: np.ndarray[Any, Any]) -> None:
    """Refuse values that are not of this array, before HDF5 casts or broadcasts them."""
    ndim = len(array.chunks)
    if values.dtype.newbyteorder("=") != array.dtype:
        raise MismatchError(
            f"{array.name!r} holds {array.dtype}, these values are {values.dtype}. "
            f"Cast them to {array.dtype}."
        )
    if values.ndim != ndim or len(start) != ndim or min(start, default=0) < 0:
        raise MismatchError(
            f"{array.name!r} has {ndim} axes, so values of shape {values.shape} cannot be put at "
            f"{tuple(start)}."
        )


def _kept_shape(
    old: tuple[int, ...], new: tuple[int, ...], extent: tuple[int, ...], *, name: str
) -> tuple[int, ...]:
    """Shape of the dataset when `new` is published in place of `old`."""
    if len(new) != len(old):
        raise MismatchError(
            f"{name!r} has shape {old}, so it cannot become {new}. Give one size per axis."
        )
    # What lies beyond a growing axis stays for the next resize; a shrinking one is cut.
    return tuple(max(n, e) if n >= o else n for n, o, e in zip(new, old, extent, strict=True))


def _bounded(region: tuple[slice, ...], shape: tuple[int, ...], *, name: str) -> tuple[slice, ...]:
    """A slice with both ends for every axis, inside the shape."""
    if len(region) > len(shape):
        raise IndexError(f"{name!r}: region {region} has more axes than the shape {shape}")
    given = [*region, *(slice(None),) * (len(shape) - len(region))]
    bounds = [part.indices(n) for part, n in zip(given, shape, strict=True)]
    return tuple(slice(start, max(start, stop)) for start, stop, _ in bounds)
