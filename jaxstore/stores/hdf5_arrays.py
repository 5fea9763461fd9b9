"""One dataset as an array of chunks: made, opened, written by chunks, read by regions.

Owned here: the bytes of a region. Which chunks it touches is `geometry`, the bytes of one chunk
`hdf5_codec`, the way to the dataset `hdf5_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.dtypes import fill_value, from_stored, parse_dtype
from jaxstore.stores.geometry import chunk_regions
from jaxstore.stores.hdf5_attrs import DTYPE, read_all
from jaxstore.stores.hdf5_codec import Encode, chunk_encoder
from jaxstore.stores.hdf5_names import find_item
from jaxstore.stores.hdf5_scales import dims_of, name_dims

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An open dataset and what is needed to read and write it."""

    name: str
    dataset: h5py.Dataset
    dtype: np.dtype[Any]  # what callers see
    chunks: tuple[int, ...]  # of a dataset without chunks, the whole of it
    encode: Encode | None  # None: HDF5 has to encode by itself

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

    def write(self, start: Sequence[int], values: Array) -> None:
        """Put stored values at an offset inside the dataset's shape."""
        if self.encode is None:
            stop = (a + n for a, n in zip(start, values.shape, strict=True))
            self.dataset[tuple(map(slice, start, stop))] = values
            return
        for part in chunk_regions(start, values.shape, self.chunks):
            origin = tuple(i * n for i, n in zip(part.index, self.chunks, strict=True))
            block = values[part.in_values]
            if not part.is_whole:
                block = self._patched(origin, part.in_chunk, block)
            data = self.encode(np.ascontiguousarray(block))
            self.dataset.id.write_direct_chunk(origin, data)

    def read(self, region: tuple[slice, ...]) -> Array:
        """Copy out a region, as the dtype that callers see.

        Raises:
            OSError: A chunk is damaged, or a filter is not installed.
        """
        try:
            stored = np.asarray(self.dataset[region])
        except (OSError, RuntimeError) as error:
            chunk = self._damaged(region)
            where = "" if chunk is None else f", chunk {chunk}"
            file = self.dataset.file.filename
            raise OSError(f"{self.name!r} in {file}{where}: cannot be read: {error}") from error
        return from_stored(stored, self.dtype) if self.is_ours else stored

    @property
    def is_ours(self) -> bool:
        """Whether stores write this dtype; a foreign file may hold text or records."""
        return self.dtype.kind in "biufcV" and self.dtype.names is None

    def _patched(self, origin: tuple[int, ...], covered: tuple[slice, ...], values: Array) -> Array:
        """The chunk at `origin` with `values` in it; read only if they leave out some of it."""
        block = np.full(self.chunks, self.dataset.fillvalue, self.dataset.dtype)
        present = tuple(
            slice(0, min(n, size - first))
            for first, n, size in zip(origin, self.chunks, self.dataset.shape, strict=True)
        )
        if covered != present:
            block[present] = self.dataset[
                tuple(slice(a, a + p.stop) for a, p in zip(origin, present, strict=True))
            ]
        block[covered] = values
        return block

    def _damaged(self, region: tuple[slice, ...]) -> tuple[int, ...] | None:
        """Index of the first chunk of a region that cannot be read."""
        grid = (
            range(s.start // n, -(-s.stop // n)) for s, n in zip(region, self.chunks, strict=True)
        )
        for index in product(*grid):
            corner = tuple(i * n for i, n in zip(index, self.chunks, strict=True))
            try:
                self.dataset[corner]
            except (OSError, RuntimeError):
                return index
        return None


def find_array(root: h5py.Group, name: str, *, location: str) -> StoredArray | None:
    """The array of a name, None if there is none.

    Raises:
        FormatError: Its data lie in other files.
    """
    dataset = find_item(root, name, location=location)
    if not isinstance(dataset, h5py.Dataset):
        return None
    if dataset.external or dataset.is_virtual:
        kind = "virtual" if dataset.is_virtual else "external"
        raise FormatError(
            f"{name!r} in {location}: its data lie in other files ({kind} storage), which are not "
            "read. Copy it into a plain dataset first, for example with h5repack."
        )
    return StoredArray(
        name=name,
        dataset=dataset,
        dtype=_dtype(dataset),
        chunks=dataset.chunks or tuple(max(n, 1) for n in dataset.shape),
        encode=chunk_encoder(dataset),
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


def _dtype(dataset: h5py.Dataset) -> np.dtype[Any]:
    if (name := dataset.attrs.get(DTYPE)) is not None:
        return parse_dtype(str(name))
    dtype: np.dtype[Any] = dataset.dtype.newbyteorder("=")
    return dtype
