"""HDF5 files and handles as sources of rows.

Owned here: which datasets there are, which of them are refused, and which way each is read: past
HDF5 (`fetch_hdf5_direct`) or by it (`fetch_hdf5_sliced`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.sources.axes import Axes, axes_of
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.fetch_hdf5_codec import chunk_decoder, registered
from jaxstore.sources.fetch_hdf5_direct import (
    ChunkedRows,
    ContiguousRows,
    DataFile,
    chunk_places,
    may_have_plain_edges,
)
from jaxstore.sources.fetch_hdf5_sliced import SlicedRows
from jaxstore.sources.geometry import ArrayGeometry
from jaxstore.stores.dtypes import parse_dtype, stored_dtype
from jaxstore.stores.hdf5_attrs import DTYPE
from jaxstore.stores.hdf5_codec import filters_of
from jaxstore.stores.hdf5_file import open_file
from jaxstore.stores.hdf5_names import find_item, is_array, items_below, missing

BLOCK_BYTES = 4 << 20  # of the chunks that a dataset without chunks is cut into
RUN_BYTES = 16 << 10  # read in one piece where rows do not lie together; a disk reads no less
MOST_BLOCK_BYTES = 64 << 20  # of such a chunk, however short its pieces are then
_MOST_ELEMENTS = 2.0**62  # of a dataset; the chunks of a larger one may have no flat index
_ASKED_FOR = "Give the open h5py.Dataset instead of its name: that is taken as asked for."


def open_hdf5_arrays(
    where: Any,
    names: Sequence[str] | None,
    *,
    axis: Axes = 0,
    is_strict: bool,
) -> dict[str, RowSource]:
    """The arrays of an HDF5 file by name, each read past HDF5's lock where that can be.

    Args:
        where: A path, or a File, Group or Dataset of h5py, which must stay open. What is written
            through a handle of yours is read by HDF5 itself, since chunks may move.
        names: Paths inside the file or group; a Dataset has the last part of its own. None takes
            all arrays of numbers that lie in the file itself, but no dimensions without values.
        axis: The sample axis, of all or by name.
        is_strict: Whether chunks that were never written are errors, not fill values.

    Raises:
        MissingError: There is no such array; the message lists those there are.
        FormatError: An array that is named cannot be loaded; or no array can.
        BusyError: Another process writes the file.
    """
    is_path = isinstance(where, (str, PathLike))
    file = open_file(Path(where), "r") if is_path else where.file
    if file.mode != "r":
        file.flush()
    is_direct = _stays_as_it_is(file)
    data = DataFile(file, is_ours=is_path, has_descriptor=is_direct)
    opened = Opened(str(file.filename), data, is_direct, is_strict)
    if isinstance(where, h5py.Dataset):
        name = (where.name or "array").rpartition("/")[2]
        axes = axes_of(axis, [name], location=opened.location)
        return {name: opened.trusted(where, name, axes[name])}
    return opened.sources(file["/"] if is_path else where, names, axis)


@dataclass(frozen=True, slots=True)
class Opened:
    """One file while its arrays are opened."""

    location: str
    file: DataFile
    is_direct: bool  # whether it can be read past HDF5
    is_strict: bool

    def sources(
        self, root: h5py.Group, names: Sequence[str] | None, axis: Axes
    ) -> dict[str, RowSource]:
        """Of all names, or of all arrays that can be loaded."""
        if names is None:
            items = self._loadable(root)
        else:
            items = {name: self._named(root, name) for name in names}
        axes = axes_of(axis, items, location=self.location)
        return {name: self._source(item, name, axes[name]) for name, item in items.items()}

    def _loadable(self, root: h5py.Group) -> dict[str, h5py.Dataset]:
        """All arrays that can be loaded.

        Raises:
            FormatError: None can.
        """
        found, reasons = {}, []
        for name, item in items_below(root):
            if not isinstance(item, h5py.Dataset) or not is_array(item):
                continue
            if reason := _links(item) or _refusal(item):
                reasons.append(f"{name!r} {reason}")
            else:
                found[name] = item
        if not found:
            there = " ".join(sorted(reasons)) or "it has no dataset."
            raise FormatError(f"{self.location} holds no array that can be loaded: {there}")
        return found

    def _source(self, dataset: h5py.Dataset, name: str, axis: int) -> RowSource:
        """One array whose data lie in the file itself.

        Raises:
            FormatError: They do not; or it cannot be loaded.
        """
        if reason := _links(dataset):
            raise FormatError(f"{name!r} in {self.location} {reason}")
        return self.trusted(dataset, name, axis)

    def trusted(self, dataset: h5py.Dataset, name: str, axis: int) -> RowSource:
        """One array, wherever its data lie, in the way that fits it.

        Raises:
            FormatError: It cannot be loaded.
        """
        if reason := _refusal(dataset):
            raise FormatError(f"{name!r} in {self.location} {reason}")
        if self.is_strict and _links(dataset):
            raise FormatError(
                f"{name!r} in {self.location}: HDF5 does not tell which of its rows in other files "
                "are absent. Load it without strict=True."
            )
        chunks = dataset.chunks or _cut(dataset.shape, dataset.dtype.itemsize, axis)
        geometry = ArrayGeometry(name, dataset.shape, chunks, _dtype(dataset), axis)
        direct = self._direct(dataset, geometry) if self.is_direct else None
        return direct or SlicedRows(
            geometry,
            self.location,
            dataset,
            dataset.dtype.newbyteorder("="),
            self.is_strict,
            self.file,
        )

    def _direct(self, dataset: h5py.Dataset, geometry: ArrayGeometry) -> RowSource | None:
        """The array read past HDF5, None where that cannot be."""
        # A type may be one that NumPy has no equal for, such as integers of 24 bits.
        if dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype, logical=True):
            return None
        layout = dataset.id.get_create_plist().get_layout()
        if layout == h5py.h5d.CONTIGUOUS and not _links(dataset):
            offset = dataset.id.get_offset()
            if offset is None:  # nothing was written
                return None
            return ContiguousRows(geometry, self.location, dataset.dtype, offset, self.file)
        if layout != h5py.h5d.CHUNKED:
            return None
        n_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        decoder = chunk_decoder(n_bytes, filters_of(dataset))
        if decoder is None or math.prod(map(float, dataset.shape)) > _MOST_ELEMENTS:
            return None
        places = chunk_places(dataset)
        if decoder.filters and may_have_plain_edges(places, dataset, n_bytes):
            return None
        return ChunkedRows(
            geometry=geometry,
            location=self.location,
            stored=dataset.dtype,
            fill=dataset.fillvalue,
            decoder=decoder,
            places=places,
            is_strict=self.is_strict,
            file=self.file,
        )

    def _named(self, root: h5py.Group, name: str) -> h5py.Dataset:
        try:
            item = find_item(root, name, location=self.location)
        except FormatError as error:
            raise FormatError(f"{error} {_ASKED_FOR}") from None
        if not isinstance(item, h5py.Dataset):
            raise missing(root, name, location=self.location)
        return item


def _stays_as_it_is(file: h5py.File) -> bool:
    """Whether a file is a plain one whose chunks do not move, with offsets from its first byte."""
    is_plain = file.driver == "sec2" and file.userblock_size == 0
    return is_plain and file.mode == "r" and not file.swmr_mode


def _links(dataset: h5py.Dataset) -> str | None:
    """Why an array is not loaded by its name alone: its data lie in other files."""
    if not dataset.external and not dataset.is_virtual:
        return None
    kind = "virtual" if dataset.is_virtual else "external"
    return f"has its data in other files ({kind} storage). {_ASKED_FOR}"


def _refusal(dataset: h5py.Dataset) -> str | None:
    """Why an array cannot be loaded at all; None if it can."""
    if not dataset.shape:
        return "is a single value, without an axis to take rows from. Leave it out."
    if dataset.dtype.kind not in "biufc":
        return f"holds {_kind(dataset.dtype)}, which are no numbers. Leave it out, or encode it."
    for number, _ in filters_of(dataset):
        if not registered(number):
            return (
                f"is written with filter {number}, which HDF5 does not have here. Install its "
                "plugin, and name the folder in HDF5_PLUGIN_PATH."
            )
    return None


def _kind(dtype: np.dtype[Any]) -> str:
    if h5py.check_string_dtype(dtype) is not None:
        return "strings"
    return "records" if dtype.names else f"elements of {dtype}"


def _dtype(dataset: h5py.Dataset) -> np.dtype[Any]:
    """What callers see: the dtype of the file in native byte order, or what its bits stand for.

    Raises:
        FormatError: The bits are not those of what they should stand for.
    """
    stored: np.dtype[Any] = dataset.dtype.newbyteorder("=")
    if (name := dataset.attrs.get(DTYPE)) is None:
        return stored
    dtype = parse_dtype(str(name))
    if stored_dtype(dtype) != stored:
        raise FormatError(
            f"{dataset.name} holds {stored}, which is not how {dtype} is stored. Restore it from "
            "a copy."
        )
    return dtype


def _cut(shape: tuple[int, ...], itemsize: int, axis: int) -> tuple[int, ...]:
    """Chunks for rows that have none: whole along all axes but that of the samples."""
    if not -len(shape) <= axis < len(shape):
        return shape  # refused with the geometry
    axis %= len(shape)
    row_bytes = max(1, itemsize * math.prod(shape[:axis]) * math.prod(shape[axis + 1 :]))
    rows = BLOCK_BYTES // row_bytes
    if axis:
        piece_bytes = max(1, itemsize * math.prod(shape[axis + 1 :]))
        rows = max(rows, min(RUN_BYTES // piece_bytes, MOST_BLOCK_BYTES // row_bytes))
    chunks = [max(n, 1) for n in shape]
    chunks[axis] = max(1, min(rows, chunks[axis]))
    return tuple(chunks)
