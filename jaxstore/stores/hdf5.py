"""The HDF5 store: chunked datasets in groups, named as netCDF-4 names them.

Owned here: how the Store protocol lies in an HDF5 file. When the file is open is `hdf5_handle`,
one dataset `hdf5_arrays`, dimension names `hdf5_scales`, attributes `hdf5_attrs`, the record
`hdf5_record`, other bytes `hdf5_blobs`, what other processes read meanwhile `hdf5_live_writer`.

Every chunk is encoded here and handed to HDF5 whole, so encoding runs beside HDF5's lock and all
chunks carry their checksum. The commit record lies beside the file while it is written, where it
can be replaced atomically, and moves into the file when the store is sealed.
"""

from __future__ import annotations

import operator
from collections.abc import Buffer, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import h5py
import numpy as np

from jaxstore.stores import hdf5_blobs
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.blob_keys import check_key
from jaxstore.stores.dtypes import stored_dtype, to_stored
from jaxstore.stores.hdf5_arrays import StoredArray, check_write, kept_shape, make_array
from jaxstore.stores.hdf5_attrs import COMMIT, encode_all, read_all
from jaxstore.stores.hdf5_chunks import bounded
from jaxstore.stores.hdf5_codec import filter_options
from jaxstore.stores.hdf5_file import check_plain, sync_file
from jaxstore.stores.hdf5_group_handle import GroupHandle
from jaxstore.stores.hdf5_handle import FileHandle
from jaxstore.stores.hdf5_labels import check_labels, is_labels, read_labels, write_labels
from jaxstore.stores.hdf5_live_writer import LiveWriter, ShapeOf
from jaxstore.stores.hdf5_mending import mend, settle
from jaxstore.stores.hdf5_names import array_names, find_item, free_place, make_group, missing
from jaxstore.stores.hdf5_opened import Handle, Opened
from jaxstore.stores.hdf5_reader import HDF5Reader
from jaxstore.stores.hdf5_record import parse_record, record_beside, record_text, refuse_orphan
from jaxstore.stores.hdf5_scales import fit_dims
from jaxstore.stores.hdf5_settings import Settings


class HDF5Store:
    """Arrays in an HDF5 file or group; made by `new`, `open` or `adopt`."""

    keeps_commits = False

    def __init__(
        self,
        handle: Handle,
        *,
        compression: str | None = "zstd",
        checksum: bool = True,
        durable: bool = False,
        is_new: bool = False,
    ) -> None:
        self._handle = handle
        self._filters = filter_options(compression, checksum=checksum)
        self._durable = durable
        # Arrays that `write` grew further than `resize` has published; the dataset has the larger
        # shape, since HDF5 takes no chunk outside of it.
        self._published: dict[str, tuple[int, ...]] = {}
        self._live: LiveWriter | None = None
        if handle.path is not None and handle.is_writable:
            self._live = LiveWriter(handle.path, durable=durable, is_new=is_new)
            with self._writing():
                pass

    @classmethod
    def new(cls, path: str | PathLike[str], **settings: Unpack[Settings]) -> HDF5Store:
        """Make a new file, and the directories above it.

        Raises:
            ExistsError: Something is there; or the record or a blob of a file that is gone.
            FormatError: There is no such compression.
        """
        path = Path(path)
        filter_options(settings.get("compression", "zstd"), checksum=True)  # before there is a file
        refuse_orphan(path)
        handle = FileHandle.create(path, durable=settings.get("durable", False))
        return cls(handle, **settings, is_new=True)

    @classmethod
    def open(
        cls, path: str | PathLike[str], *, mode: str = "r", **settings: Unpack[Settings]
    ) -> Store:
        """Open a file that is there, mode "r" or "r+".

        For reading, also one that another process writes: as of its last commit.

        Raises:
            MissingError: There is no file.
            FormatError: It is no HDF5 file, or damaged.
            BusyError: Another process writes it; for reading, if it has not committed yet.
        """
        path = Path(path)
        if mode not in ("r", "r+"):
            raise ValueError(f"mode must be 'r' or 'r+', got {mode!r}")
        settle(path)
        if mode == "r+":
            mend(path, durable=settings.get("durable", False))
            return cls(FileHandle.open(path, is_writable=True), **settings)
        return HDF5Reader(path, open_plain=lambda: cls(FileHandle.open(path, is_writable=False)))

    @classmethod
    def adopt(cls, group: h5py.Group, **settings: Unpack[Settings]) -> HDF5Store:
        """Work in a file or group that the user has opened; `close` leaves it open.

        Raises:
            ValueError: `durable` of a file that is no plain file on a disk.
        """
        if settings.get("durable"):
            check_plain(group.file)
        return cls(GroupHandle(group), **settings)

    @property
    def location(self) -> str:
        """Path of the file, and of the group if it is not the root."""
        return self._handle.location

    @property
    def replaces_chunks(self) -> bool:
        """Whether a rewritten chunk is, at any moment, the old or the new one: HDF5 overwrites."""
        return False

    @property
    def lease_s(self) -> None:
        """HDF5 locks the file."""
        return None

    def create(self, spec: ArraySpec) -> None:
        """Make a chunked dataset that may grow along every axis."""
        attrs = encode_all(spec.attrs, name=spec.name)
        dtype = stored_dtype(spec.dtype)
        with self._writing() as opened:
            group, leaf = free_place(opened.root, spec.name, location=self.location)
            make_array(group, leaf, spec, dtype=dtype, filters=self._filters).attrs.update(attrs)
            self._note_change()

    def names(self, *, with_labels: bool = False) -> list[str]:
        """Names of all arrays below the root, sorted."""
        with self._handle.reading() as opened:
            return array_names(opened.root, with_labels=with_labels)

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here; dimensions without a name in the file are `dim_0` and so on."""
        with self._handle.reading() as opened:
            array = self._array(opened, name)
            return array.spec(self._shape(array))

    def write(self, name: str, start: Sequence[int], values: np.ndarray[Any, Any]) -> None:
        """Put `values` at offset `start`."""
        values = np.asarray(values)
        with self._writing() as opened:
            array = self._array(opened, name)
            check_write(array, start, values)
            if not values.size:
                return
            extent = array.dataset.shape
            reach = (a + n for a, n in zip(start, values.shape, strict=True))
            grown = tuple(map(max, extent, reach))
            if grown != extent:
                self._published.setdefault(name, extent)
                array.dataset.resize(grown)
            array.write(start, to_stored(values), log=self._live)

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Publish a new shape."""
        new = tuple(map(int, shape))
        with self._writing() as opened:
            array = self._array(opened, name)
            extent: tuple[int, ...] = array.dataset.shape
            old = self._published.get(name, extent)
            kept = kept_shape(old, new, extent, name=name)
            if kept != extent:
                self._resize(array, kept)
            fit_dims(array.dataset, old, new)
            self._published.pop(name, None)
            if kept != new:
                self._published[name] = new

    def read(
        self, name: str, region: tuple[slice, ...] = (), *, is_strict: bool = False
    ) -> np.ndarray[Any, Any]:
        """Copy out a region."""
        with self._handle.reading() as opened:
            array = self._array(opened, name)
            part = bounded(region, self._shape(array), name=name)
            return array.read(part, is_strict=is_strict)

    def damage(self, name: str, region: tuple[slice, ...]) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        with self._handle.reading() as opened:
            array = self._array(opened, name)
            # Listed before the first is given, so that no lock waits for whoever looks at them.
            found = list(array.damage(bounded(region, self._shape(array), name=name)))
        yield from found

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
        with self._writing() as opened:
            item = find_item(opened.root, name, location=self.location)
            if item is None:
                item = make_group(opened.root, name, location=self.location)
            item.attrs.update(encoded)
            self._note_change()

    def commit(self, record: Mapping[str, Json]) -> None:
        """Flush, then replace the record beside the file; in an adopted file, the attribute."""
        text = record_text(record)
        live = None
        with self._writing() as opened:
            self._flush(opened)
            if self._live is None:
                opened.root.attrs[COMMIT] = text
                self._flush(opened)
            else:
                live = self._live.publish(opened.root, self._shape_in(opened))
        if self._live is not None:
            self._live.commit(dict(record), live)

    def committed(self) -> dict[str, Json] | None:
        """The record beside the file if there is one, else the one inside."""
        if (record := record_beside(self._handle.path)) is not None:
            return record
        with self._handle.reading() as opened:
            text = opened.root.attrs.get(COMMIT)
        return None if text is None else parse_record(text, location=self.location)

    def put_blob(self, name: str, key: str, parts: Sequence[Buffer]) -> None:
        """Keep bytes beside the file; in an adopted file, in a dataset, written in place."""
        check_key(key)
        with self._writing() as opened:
            self._array(opened, name)
            if self._handle.path is None:
                hdf5_blobs.put_inside(opened.root, key, parts)
                self._flush(opened)
        if self._handle.path is not None:
            hdf5_blobs.put_beside(self._handle.path, key, parts, durable=self._durable)

    def get_blob(self, name: str, key: str) -> bytes | None:
        """The bytes under a key."""
        check_key(key)
        if self._handle.path is not None:
            return hdf5_blobs.get_beside(self._handle.path, key)
        with self._handle.reading() as opened:
            return hdf5_blobs.get_inside(opened.root, key)

    def delete_blob(self, name: str, key: str) -> None:
        """Remove the bytes under a key, if there are any."""
        check_key(key)
        if self._handle.path is not None:
            hdf5_blobs.blob_path(self._handle.path, key).unlink(missing_ok=True)
            return
        with self._writing() as opened:
            hdf5_blobs.remove_inside(opened.root, key)

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Make a coordinate of strings, which `names` does not list."""
        check_labels(labels, name=name)
        with self._writing() as opened:
            group, leaf = free_place(opened.root, name, location=self.location)
            write_labels(group, leaf, labels)
            self._note_change()

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate, None where there are none."""
        with self._handle.reading() as opened:
            item = find_item(opened.root, name, location=self.location)
            return read_labels(item) if is_labels(item) else None

    def seal(self) -> None:
        """Cut what was never published, move the record into the file, and release the file."""
        record = record_beside(self._handle.path) if self._handle.is_writable else None
        if self._handle.is_writable and (self._published or record is not None):
            with self._writing() as opened:
                for name, shape in self._published.items():
                    self._resize(self._array(opened, name), shape)
                self._published.clear()
                if record is not None:
                    opened.root.attrs[COMMIT] = record_text(record)
                self._flush(opened)
        if self._live is not None:
            self._live.end(is_sealed=record is not None)
        self._handle.release()

    def reader(self) -> Store:
        """A store for reading the same file, or the same group of a user's file."""
        if self._handle.path is not None:
            return HDF5Store.open(self._handle.path)
        return HDF5Store(self._handle.reader())

    def close(self) -> None:
        """Let go of the file; an adopted one is flushed and stays open."""
        try:
            if self._live is not None and self._live.is_telling and self._handle.is_sound:
                with self._writing() as opened:
                    self._flush(opened)
                self._live.end(is_sealed=False)
        finally:
            if self._live is not None:
                self._live.abandon()
            self._handle.close()

    @contextmanager
    def _writing(self) -> Iterator[Opened]:
        with self._handle.writing() as opened:
            if self._live is not None:
                self._live.begin(opened.root, self._shape_in(opened))
            yield opened

    def _flush(self, opened: Opened) -> None:
        if self._live is not None:
            self._live.flushing()
        opened.root.file.flush()
        if self._durable:
            sync_file(opened.root.file)

    def _resize(self, array: StoredArray, shape: tuple[int, ...]) -> None:
        """Give a dataset another shape; where that cuts it, HDF5 frees and rewrites chunks."""
        if self._live is not None and any(map(operator.lt, shape, array.dataset.shape)):
            self._live.moving(array.name)
        array.dataset.resize(shape)

    def _note_change(self) -> None:
        if self._live is not None:
            self._live.is_changed = True

    def _array(self, opened: Opened, name: str) -> StoredArray:
        return opened.array(name, location=self.location)

    def _shape(self, array: StoredArray) -> tuple[int, ...]:
        extent: tuple[int, ...] = array.dataset.shape
        return self._published.get(array.name, extent)

    def _shape_in(self, opened: Opened) -> ShapeOf:
        return lambda name: self._shape(self._array(opened, name))
