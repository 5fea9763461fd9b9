"""How a result lies in a group of an HDF5 file: arrays, manifest, marks.

Owned here: what is read from such a group, and what is put into it. When it counts is
`results_hdf5_file`; who may do it, `results_hdf5_group`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import parse_dtype, stored_dtype
from jaxstore.stores.hdf5_arrays import StoredArray, make_array
from jaxstore.stores.hdf5_attrs import encode_all
from jaxstore.stores.hdf5_codec import Filter, filters_as_options, filters_of
from jaxstore.stores.hdf5_names import array_names, free_place
from jaxstore.stores.results import RESULT, TODO, Marks
from jaxstore.stores.results_roles import STATUS, check_array_name, combine_marks


@dataclass(frozen=True, slots=True)
class Layout:
    """How an array lies, with the filters of its chunks."""

    spec: ArraySpec
    filters: tuple[Filter, ...]

    @classmethod
    def of(cls, array: StoredArray) -> Layout:
        """Of an array that is there."""
        return cls(array.spec(array.dataset.shape), tuple(filters_of(array.dataset)))

    @classmethod
    def from_json(cls, value: Json) -> Layout:
        """What `to_json` gave."""
        name, shape, chunks, dtype, dims, filters = value
        spec = ArraySpec(name, tuple(shape), tuple(chunks), parse_dtype(dtype), tuple(dims))
        return cls(spec, tuple((number, tuple(options)) for number, options in filters))

    def to_json(self) -> Json:
        """As JSON, less the attributes of the array."""
        spec = self.spec
        return [spec.name, spec.shape, spec.chunks, spec.dtype.name, spec.dims, self.filters]

    @property
    def options(self) -> dict[str, Any]:
        """The filters as keywords of h5py."""
        return filters_as_options(self.filters)


def names_in(group: h5py.Group) -> list[str]:
    """Names of the arrays of a result, sorted."""
    return [name for name in array_names(group) if not name.startswith(f"{STATUS}/")]


def make_result_arrays(
    group: h5py.Group, specs: Sequence[ArraySpec], *, filters: Mapping[str, Any], location: str
) -> None:
    """Make arrays; what cannot be stored is refused before the first.

    Raises:
        ExistsError: A name is taken.
        FormatError: A dtype or an attribute cannot be stored, or a name is for the marks.
    """
    for spec, dtype, attrs in storable(specs):
        parent, leaf = free_place(group, spec.name, location=location)
        made = make_array(parent, leaf, spec, dtype=dtype, filters=dict(filters))
        made.attrs.update(attrs)


def storable(specs: Sequence[ArraySpec]) -> list[tuple[ArraySpec, np.dtype[Any], dict[str, Any]]]:
    """Specs with the dtypes and the attributes that HDF5 gets.

    Raises:
        FormatError: It takes one of them not.
    """
    for spec in specs:
        check_array_name(spec.name)
    return [(s, stored_dtype(s.dtype), encode_all(s.attrs, name=s.name)) for s in specs]


def read_manifest(group: h5py.Group, *, location: str) -> dict[str, Json]:
    """The manifest of a result.

    Raises:
        FormatError: It is damaged.
    """
    try:
        found = json.loads(group.attrs[RESULT])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{location}: its manifest ({RESULT}) cannot be read: {error}. "
            "Restore the file from a copy, or compute the result anew."
        ) from error
    if not isinstance(found, dict):
        raise FormatError(f"{location}: its manifest ({RESULT}) is {found!r:.40}, no object.")
    return found


def write_manifest(group: h5py.Group, manifest: Mapping[str, Json]) -> None:
    """Replace the manifest of a result."""
    # Text of variable length lies in a heap, so that there is no limit of 64 kB.
    group.attrs[RESULT] = json.dumps(dict(manifest))


def make_marks(group: h5py.Group, n_units: int, *, writer: str) -> None:
    """Marks of a new writer, all of them TODO."""
    group.create_group(STATUS).create_dataset(writer, (n_units,), "u1", fillvalue=TODO)


def read_marks(group: h5py.Group, *, location: str) -> Marks:
    """The marks of all writers as one.

    Raises:
        FormatError: They are damaged.
    """
    status = group.get(STATUS)
    found = list(status.values()) if isinstance(status, h5py.Group) else []
    if not found or not all(
        isinstance(marks, h5py.Dataset) and marks.dtype == np.uint8 and marks.ndim == 1
        for marks in found
    ):
        raise FormatError(
            f"{location}: its marks ({STATUS}) are not what jaxstore wrote, so nobody knows which "
            "units are done. Restore the file from a copy, or compute the result anew."
        )
    return combine_marks([marks[()] for marks in found])


def put_marks(group: h5py.Group, units: Sequence[int], value: int, *, writer: str) -> None:
    """Set the marks of some units."""
    marks = group[STATUS][writer]
    for unit in units:  # one by one: written whole, all of them would go through the journal
        marks[unit] = value


def replace_marks(group: h5py.Group, marks: Marks, *, writer: str) -> None:
    """One writer's marks instead of all there are."""
    del group[STATUS]
    made = group.create_group(STATUS)
    made.create_dataset(writer, data=np.asarray(marks, np.uint8), fillvalue=TODO)
