"""Stores read by h5py and by zarr themselves, without jaxstore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import obstore.store
import zarr

Array = np.ndarray[Any, Any]


def decoded(where: str | Path) -> dict[str, Array]:
    """Every array by its name, decoded; of a file of HDF5, or of Zarr in a folder or at a URL."""
    found: dict[str, Array] = {}
    if str(where).endswith(".h5"):

        def note(name: str, item: Any) -> None:
            # References to other datasets are addresses, which differ from file to file.
            if isinstance(item, h5py.Dataset) and item.dtype.kind != "O":
                found[name] = item[...]

        with h5py.File(where) as file:
            file.visititems(note)
        return found
    place: Any = where
    if "://" in str(where):
        place = zarr.storage.ObjectStore(obstore.store.from_url(str(where)), read_only=True)
    if str(where).endswith(".icechunk"):
        import icechunk

        storage = icechunk.local_filesystem_storage(str(where))
        place = icechunk.Repository.open(storage).readonly_session("main").store
    for name, item in zarr.open_group(place, mode="r").members(max_depth=None):
        if isinstance(item, zarr.Array) and not name.startswith(".jaxstore/"):
            found[name] = np.asarray(item[...])
    return found


def assert_same_arrays(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    """The same names, shapes, dtypes and bytes."""
    assert sorted(found) == sorted(wanted)
    for name, right in wanted.items():
        assert_same_bits(found[name], right, name)


def assert_same_bits(found: Array, wanted: Array, what: str) -> None:
    assert found.shape == wanted.shape, f"{what}: {found.shape}, not {wanted.shape}"
    assert found.dtype == wanted.dtype, f"{what}: {found.dtype}, not {wanted.dtype}"
    assert found.tobytes() == wanted.tobytes(), f"{what} differs"
