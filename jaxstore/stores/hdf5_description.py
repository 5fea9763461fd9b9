"""What an HDF5 file holds apart from chunks, as JSON: arrays, attributes, labels.

Owned here: the description beside a file that is written, from which other processes read what
HDF5 would have to open the file for. Shapes are not in it: they belong to each commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import parse_dtype
from jaxstore.stores.hdf5_attrs import DTYPE, read_all
from jaxstore.stores.hdf5_codec import ChunkCodec, chunk_codec, codec_of
from jaxstore.stores.hdf5_labels import is_labels, read_labels
from jaxstore.stores.hdf5_names import is_array, items_below
from jaxstore.stores.hdf5_scales import dims_of


def description_path(path: Path) -> Path:
    """Where the description of a file lies while the file is written."""
    return path.with_name(path.name + ".live.json")


@dataclass(frozen=True, slots=True)
class DescribedArray:
    """An array as another process sees it."""

    dtype: np.dtype[Any]  # what callers see
    dims: tuple[str, ...]
    chunks: tuple[int, ...]
    fill: np.generic[Any]
    codec: ChunkCodec | None  # None: only HDF5 can read it


@dataclass(frozen=True, slots=True)
class Description:
    """What a file holds, as of some commit or later."""

    version: int  # counts up
    arrays: dict[str, DescribedArray]
    attrs: dict[str, dict[str, Json]]  # of the root "", of groups, of arrays
    labels: dict[str, list[str]]

    def spec(self, name: str, shape: tuple[int, ...]) -> ArraySpec:
        """How an array lies in the file."""
        array = self.arrays[name]
        attrs = self.attrs.get(name, {})
        return ArraySpec(name, shape, array.chunks, array.dtype, array.dims, attrs)


def describe(root: h5py.Group, *, version: int) -> dict[str, Json]:
    """The description of an open file as JSON."""
    arrays: dict[str, Json] = {}
    attrs = {"": read_all(root)}
    labels: dict[str, list[str]] = {}
    for name, item in items_below(root):
        if isinstance(item, h5py.Dataset) and is_labels(item):
            labels[name] = read_labels(item)
        elif isinstance(item, h5py.Dataset) and is_array(item):
            arrays[name] = _array_json(item)
        elif not isinstance(item, h5py.Group):
            continue
        attrs[name] = read_all(item)
    return {"version": version, "arrays": arrays, "attrs": attrs, "labels": labels}


def parse_description(found: dict[str, Json], *, location: str) -> Description:
    """The description that `describe` gave.

    Raises:
        FormatError: It is something else.
    """
    try:
        arrays = {name: _array(value) for name, value in found["arrays"].items()}
        return Description(found["version"], arrays, found["attrs"], found["labels"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{location} does not describe the arrays of a file ({error!r}). Close the program "
            "that writes the file, then open it again."
        ) from error


def _array_json(dataset: h5py.Dataset) -> dict[str, Json]:
    codec = None if dataset.external or dataset.is_virtual else codec_of(dataset)
    found: dict[str, Json] = {
        "dims": dims_of(dataset),
        "chunks": dataset.chunks or tuple(max(n, 1) for n in dataset.shape),
        "dtype": str(dataset.attrs.get(DTYPE, "")),
    }
    if codec is not None:
        found["stored"] = codec.dtype.str
        found["fill"] = np.asarray(dataset.fillvalue, codec.dtype).tobytes().hex()
        found["filters"] = codec.filters
    return found


def _array(found: dict[str, Json]) -> DescribedArray:
    chunks = tuple(map(int, found["chunks"]))
    stored = np.dtype(found.get("stored", "V1"))
    codec = None
    if "filters" in found:
        filters = [(number, tuple(options)) for number, options in found["filters"]]
        codec = chunk_codec(chunks, stored, filters)
    return DescribedArray(
        dtype=parse_dtype(found["dtype"]) if found["dtype"] else stored.newbyteorder("="),
        dims=tuple(found["dims"]),
        chunks=chunks,
        fill=np.frombuffer(bytes.fromhex(found.get("fill", "00")), stored)[0],
        codec=codec,
    )
