"""Coordinates of strings: labels along one dimension, as netCDF-4 keeps them.

Owned here: their dataset. It is no array of a store, so `names` leaves it out; how a coordinate
becomes the scale of its dimension is `hdf5_scales`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py

from jaxstore.errors import FormatError
from jaxstore.stores.hdf5_attrs import is_text
from jaxstore.stores.hdf5_scales import name_dims


def check_labels(labels: Sequence[str], *, name: str) -> None:
    """Refuse what HDF5 would cut short or not take.

    Raises:
        FormatError: A label contains NUL or is not Unicode.
    """
    for label in labels:
        if not is_text(label):
            raise FormatError(
                f"{name!r}: HDF5 cannot hold the label {label!r}. Remove NUL and lone surrogates."
            )


def write_labels(group: h5py.Group, leaf: str, labels: Sequence[str]) -> None:
    """Make the coordinate in its group."""
    dataset = group.create_dataset(
        leaf,
        data=list(labels),
        dtype=h5py.string_dtype(),
        shape=(len(labels),),
        chunks=(max(len(labels), 1),),
        maxshape=(None,),
    )
    name_dims(group, dataset, (leaf,))


def is_labels(item: Any) -> bool:
    """Whether an open dataset is such a coordinate."""
    return (
        isinstance(item, h5py.Dataset)
        and h5py.check_string_dtype(item.dtype) is not None
        and item.ndim == 1
        and h5py.h5ds.is_scale(item.id)
    )


def read_labels(dataset: h5py.Dataset) -> list[str]:
    """The strings of a coordinate."""
    labels: list[str] = dataset.asstr()[()].tolist()
    return labels
