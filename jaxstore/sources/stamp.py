"""What tells whether a stored array may have changed: by its stamp, or by all of its rows.

Owned here: short texts about one source. A stamp costs no reading of rows; what it is compared
with is its caller's.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxstore.sources.fetch import RowSource
from jaxstore.stores.base import Store
from jaxstore.stores.dtypes import to_stored

_LENGTH = 16  # hexadecimal digits; no adversary, so 64 bits suffice
# A file system tells times in ticks, of 10 ms at most on Linux. Once one has passed, the next
# change has another time than those that are in the stamp.
_TICK_S = 0.011
_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs")  # attributes may change, the rest is in the stamp


def stamp(source: RowSource) -> str | None:
    """A text that changes when the stored data may have changed; no row of a file is read.

    Of Zarr it is made of its metadata and of size and time, or ETag, of all its chunks; of HDF5, of
    the time of the file, not counting what jaxstore adds to it; of Icechunk, of the snapshot; of a
    run, of its commit record; of an array in memory, of its values.

    Returns:
        None where this cannot be told, as of HDF5 that is open to write: `content` can.

    Raises:
        OSError: The place cannot be reached.
    """
    kind = type(source)
    if not kind.__module__.startswith("jaxstore.sources."):
        return None
    way = _WAYS.get(kind.__name__)
    return None if way is None else way(source)


def content(source: RowSource) -> str:
    """Fingerprint of all rows, equal for copies in other formats, chunks and places.

    Reads chunk by chunk, and holds one at a time.

    Raises:
        FormatError: A chunk is damaged; the message names it.
        OSError: It cannot be read.
    """
    geometry = source.geometry
    told = f"{geometry.dtype.name}{(geometry.n_samples, *geometry.inner_shape)}"
    digest = hashlib.sha256(told.encode())
    for chunk in range(geometry.n_chunks):
        rows = np.empty(
            (len(geometry.samples_in_chunk(chunk)), *geometry.inner_shape), geometry.dtype
        )
        for index in source.stored_chunks(chunk):
            source.read(index, rows)
        bits = to_stored(rows)
        little = bits.astype(bits.dtype.newbyteorder("<"), copy=False)
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:_LENGTH]


def _of_zarr(source: Any) -> str | None:
    stamps = source.blobs.stamps(source.folder)
    if stamps is None:
        return None
    total, n_objects = 0, 0  # a sum, since objects are listed in any order, and may be many
    for key, text in stamps:
        if key.rpartition("/")[2] not in _DOCUMENTS:
            n_objects += 1
            inside = key.removeprefix(source.folder).lstrip("/")
            total += int.from_bytes(hashlib.sha256(f"{inside}\0{text}".encode()).digest())
    if not source.is_remote:
        time.sleep(_TICK_S)
    document = {k: v for k, v in source.stored.metadata.to_dict().items() if k != "attributes"}
    return _digest(json.dumps(document, sort_keys=True, default=str), n_objects, total)


def _of_hdf5(source: Any) -> str | None:
    dataset = getattr(source, "dataset", None)
    if dataset is not None and not _has_time(source, dataset):
        return None
    path = Path(os.path.realpath(source.location))
    if not path.is_file():  # a file of another kind, such as one in memory
        return None
    from jaxstore.stores.hdf5_journal import epoch_of

    epoch = epoch_of(path)
    time.sleep(_TICK_S)
    geometry = source.geometry
    leaf = geometry.name.rpartition("/")[2]
    return _digest(str(path), epoch, leaf, geometry.shape, geometry.dtype.name)


def _has_time(source: Any, dataset: Any) -> bool:
    """Whether the time of its file tells of all changes of a dataset, and of no others."""
    with source.file.lock:
        file = dataset.file
        # Opening a file to write changes its time, and what is written changes it some time later.
        is_plain = file.driver in ("sec2", "stdio") and file.mode == "r"
        return is_plain and not dataset.is_virtual and not dataset.external


def _of_store(source: Any) -> str | None:
    store = None if source.held is None else source.held.store
    # A result has no number for each of its states.
    return _of_commit(store, source.geometry.name) if isinstance(store, Store) else None


def _of_leaf(source: Any) -> str | None:
    leaf = source.leaf
    return _of_commit(leaf.store, leaf.name, *leaf.chains)


def _of_commit(store: Store, *about: Any) -> str | None:
    """Of a run: what is committed does not change, and each commit has a number of its own."""
    record = store.committed()
    return None if record is None else _digest(json.dumps(record, sort_keys=True), *about)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:_LENGTH]


# By name: importing the classes would load zarr for those who read HDF5, and h5py for the others.
_WAYS: dict[str, Callable[[Any], str | None]] = {
    "ZarrSource": _of_zarr,
    "ChunkedRows": _of_hdf5,
    "ContiguousRows": _of_hdf5,
    "SlicedRows": _of_hdf5,
    "MemoryRows": content,
    "StoreRows": _of_store,
    "LeafRows": _of_leaf,
    "FirstRows": lambda source: stamp(source.source),
}
