"""Names of dimensions as netCDF-4 keeps them: one dimension scale for each name in a group.

Owned here: making, finding, sizing and replacing scales. An array whose only dimension has its
own name is the scale (a coordinate variable); for any other name stands a pure dimension, a
dataset without data. If an array or group takes the name of a pure dimension, the dimension
moves aside, to `<name>_dim`, and remembers its name in an attribute.

See "NetCDF-4 File Format", https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from jaxstore.stores.hdf5_attrs import DIM

_PURE = b"This is a netCDF dimension but not a netCDF variable."  # from netCDF's format
_CHUNK = 1024  # of a dataset that never has data


def is_pure(item: Any) -> bool:
    """Whether this is a dimension without values, which is no array of a store."""
    if not isinstance(item, h5py.Dataset) or not h5py.h5ds.is_scale(item.id):
        return False
    name: bytes = h5py.h5ds.get_scale_name(item.id)
    return name.startswith(_PURE)


def name_dims(group: h5py.Group, dataset: h5py.Dataset, dims: Sequence[str]) -> None:
    """Give a new dataset of `group` its dimensions, making the scales that are not there."""
    leaf = _leaf(dataset)
    if tuple(dims) == (leaf,):
        dataset.make_scale(leaf)
        if (pure := _find(group, leaf, skip=dataset)) is not None:
            _replace(pure, dataset)
            del group[_leaf(pure)]
        return
    for axis, (dim, size) in enumerate(zip(dims, dataset.shape, strict=True)):
        scale = _find(group, dim)
        if scale is None:
            scale = _make(group, dim, size)
        elif is_pure(scale) and scale.shape[0] < size:
            scale.resize((size,))
        dataset.dims[axis].attach_scale(scale)


def fit_dims(dataset: h5py.Dataset, old: Sequence[int], new: Sequence[int]) -> None:
    """Keep pure dimensions as large as the largest array that has them."""
    for axis in (axis for axis, size in enumerate(new) if size != old[axis]):
        scale = _scale(dataset, axis)
        if scale is None or not is_pure(scale):
            continue
        size = max(scale.shape[0], new[axis])
        if new[axis] < old[axis] == scale.shape[0]:
            # Only a shrinking array has to ask the others.
            others = [user.shape[i] for user, i in _users(scale) if user != dataset]
            size = max([new[axis], *others])
        if size != scale.shape[0]:
            scale.resize((size,))


def dims_of(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Names of the dimensions, `dim_0` and so on where a foreign file has none."""
    if dataset.ndim == 1 and h5py.h5ds.is_scale(dataset.id):
        return (_leaf(dataset),)
    return tuple(
        f"dim_{axis}" if (scale := _scale(dataset, axis)) is None else _dim(scale)
        for axis in range(dataset.ndim)
    )


def move_aside(group: h5py.Group, leaf: str) -> None:
    """Free a name in a group that a pure dimension holds."""
    if not is_pure(group.get(leaf)):
        return
    dim = _dim(group[leaf])
    free = next(name for name in _candidates(dim) if name not in group)
    group.move(leaf, free)
    group[free].attrs[DIM] = dim


def _find(group: h5py.Group, dim: str, *, skip: h5py.Dataset | None = None) -> h5py.Dataset | None:
    for name in _candidates(dim):
        if name not in group:
            return None
        item = group[name]
        is_scale = isinstance(item, h5py.Dataset) and h5py.h5ds.is_scale(item.id)
        if is_scale and item != skip and _dim(item) == dim:
            return item
    return None


def _candidates(dim: str) -> Iterator[str]:
    while True:
        yield dim
        dim += "_dim"


def _make(group: h5py.Group, dim: str, size: int) -> h5py.Dataset:
    name = next(name for name in _candidates(dim) if name not in group)
    scale = group.create_dataset(name, (size,), ">f4", maxshape=(None,), chunks=(_CHUNK,))
    scale.make_scale(f"{_PURE.decode()}{size:10d}")
    if name != dim:
        scale.attrs[DIM] = dim
    return scale


def _replace(pure: h5py.Dataset, coordinate: h5py.Dataset) -> None:
    for user, axis in _users(pure):
        user.dims[axis].detach_scale(pure)
        user.dims[axis].attach_scale(coordinate)


def _users(scale: h5py.Dataset) -> list[tuple[h5py.Dataset, int]]:
    references = scale.attrs.get("REFERENCE_LIST", np.empty(0))
    return [(scale.file[reference], int(axis)) for reference, axis in references]


def _scale(dataset: h5py.Dataset, axis: int) -> h5py.Dataset | None:
    dim = dataset.dims[axis]
    return dim[0] if len(dim) else None


def _dim(scale: h5py.Dataset) -> str:
    return str(scale.attrs.get(DIM, _leaf(scale)))


def _leaf(item: Any) -> str:
    return str(item.name).rpartition("/")[2]
