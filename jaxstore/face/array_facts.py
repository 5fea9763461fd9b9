"""Plain arrays at a place, such as a loader reads, as facts for machines.

Owned here: what is told of arrays that belong to no run, storage or result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxstore.errors import FormatError, JaxstoreError
from jaxstore.face.convert_npz import FAULTS, opened
from jaxstore.sources.opening import open_geometries
from jaxstore.stores.base import Json, Store
from jaxstore.stores.dtypes import parse_dtype


def facts_of_arrays(store: Store, *, inside: tuple[str, ...]) -> Json:
    """Facts of the arrays of a store, but those whose names begin like `inside`; None of none."""
    names = [name for name in store.names(with_labels=True) if not name.startswith(inside)]
    if not names:
        return None
    return facts_of_kind(store.location, (facts_of_array(store, name) for name in names))


def facts_of_array(store: Store, name: str) -> Json:
    """Facts of one array; of labels, and of what stores do not take, too."""
    labels = store.labels(name)
    if labels is not None:
        dims, shape = [name.rpartition("/")[2]], [len(labels)]
        return row_of(name, shape, "text", dims=dims, chunks=shape)
    try:
        spec = store.spec(name)
    except FormatError as error:
        return {**row_of(name, [], "?"), "why": str(error)}
    return row_of(name, spec.shape, spec.dtype.name, dims=spec.dims, chunks=spec.chunks)


def facts_of_foreign(where: str, error: FormatError) -> Json:
    """Facts of arrays that no store opens, but a loader does: Zarr v2, or an array alone.

    Raises:
        FormatError: The one given, where there are none.
    """
    try:
        found = open_geometries(where)
    except (JaxstoreError, OSError):
        raise error from None
    return facts_of_kind(
        where, (row_of(n, a.shape, a.dtype.name, chunks=a.chunks) for n, a in found.items())
    )


def facts_of_npz_arrays(path: Path) -> Json:
    """Facts of the arrays of an npz file, whose values are not read."""
    with opened(path) as file:
        return facts_of_kind(str(path), [npz_array(file, name, path=path) for name in file.files])


def npz_array(file: Any, name: str, *, path: Path) -> Json:
    """Facts of one array of an npz file."""
    try:
        with file.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read: Any = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
    except FAULTS as error:
        raise FormatError(
            f"{name!r} in {path} cannot be read: {error}. Restore it from a copy."
        ) from error
    return row_of(name, shape, dtype.name, chunks=shape)


def row_of(
    name: str,
    shape: Sequence[int],
    dtype: str,
    *,
    dims: Sequence[str] = (),
    chunks: Sequence[int] = (),
) -> Json:
    """Facts of one array, as all kinds of places tell them."""
    lists = {"dims": list(dims), "chunks": list(chunks)}
    return {"name": name, "shape": list(shape), "dtype": dtype, **lists}


def facts_of_kind(location: str, arrays: Iterable[Json]) -> Json:
    """Facts of plain arrays."""
    listed = list(arrays)
    return {
        "kind": "arrays",
        "location": location,
        "decoded_bytes": sum(map(bytes_of, listed)),
        "arrays": listed,
    }


def bytes_of(array: Json) -> int:
    """Of an array, decoded; 0 of text and other objects."""
    try:
        return math.prod(array["shape"]) * parse_dtype(array["dtype"]).itemsize
    except FormatError:
        return 0
