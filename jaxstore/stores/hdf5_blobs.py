"""Bytes under a key: a file beside an HDF5 file of ours, a dataset in a file of the user's.

Owned here: where they lie, and that no array has that place. What is in them is for the caller.
"""

from __future__ import annotations

from collections.abc import Buffer, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import ExistsError
from jaxstore.stores.files import put_file, sync_folder
from jaxstore.stores.hdf5_attrs import BLOB
from jaxstore.stores.hdf5_scales import fit_dims, name_dims

_CHUNK_BYTES = 1 << 20


def blob_path(path: Path, key: str) -> Path:
    """Where the bytes lie beside a file."""
    return path.with_name(f"{path.name}.{key}")


def put_beside(path: Path, key: str, parts: Sequence[Buffer], *, durable: bool) -> None:
    """Replace the bytes beside a file in one step."""
    put_file(str(blob_path(path, key)), parts, durable=durable)
    if durable:
        sync_folder(str(path.parent))


def get_beside(path: Path, key: str) -> bytes | None:
    """The bytes beside a file."""
    try:
        return blob_path(path, key).read_bytes()
    except FileNotFoundError:
        return None


def put_inside(root: h5py.Group, key: str, parts: Sequence[Buffer]) -> None:
    """Write the bytes into a dataset of the group, over those that were there.

    Raises:
        ExistsError: Something else has that name.
    """
    data = np.frombuffer(b"".join(bytes(part) for part in parts), np.uint8)
    dataset = root.get(key)
    if dataset is None:
        dataset = root.create_dataset(
            key, (0,), np.uint8, maxshape=(None,), chunks=(_CHUNK_BYTES,), fletcher32=True
        )
        dataset.attrs[BLOB] = True
        name_dims(root, dataset, (f"{key}_byte",))
    elif not is_blob(dataset):
        raise ExistsError(f"{key!r} in {root.name!r} is no blob of jaxstore. Rename it.")
    old = dataset.shape
    dataset.resize(data.shape)
    dataset[...] = data
    fit_dims(dataset, old, data.shape)


def get_inside(root: h5py.Group, key: str) -> bytes | None:
    """The bytes of such a dataset."""
    dataset = root.get(key)
    return dataset[...].tobytes() if is_blob(dataset) else None


def remove_inside(root: h5py.Group, key: str) -> None:
    """Remove such a dataset, and its dimension."""
    dataset = root.get(key)
    if is_blob(dataset):
        scale = dataset.dims[0][0]
        dataset.dims[0].detach_scale(scale)
        del root[scale.name]
        del root[key]


def is_blob(item: Any) -> bool:
    """Whether an open dataset holds such bytes, and is no array of a store."""
    return isinstance(item, h5py.Dataset) and BLOB in item.attrs
