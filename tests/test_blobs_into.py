"""Objects read where they belong: the same for files, objects and keys of a zarr store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr.storage

from jaxstore.errors import FormatError
from jaxstore.stores.blobs import Blobs, FileBlobs, blobs_at
from jaxstore.stores.blobs_zarr import ZarrBlobs


@pytest.fixture(params=["files", "objects", "zarr"])
def blobs(request: Any, tmp_path: Path) -> Blobs:
    places = {
        "files": tmp_path,
        "objects": obstore.store.MemoryStore(),
        "zarr": zarr.storage.MemoryStore(),
    }
    blobs = blobs_at(places[request.param])
    blobs.put("a/b", [b"abcde"])
    assert not blobs.is_remote
    return blobs


def test_a_view_holds_the_object_and_takes_memory_once_at_most(blobs: Blobs) -> None:
    taken: list[Any] = []

    def take(n_bytes: int) -> Any:
        taken.append(np.empty(n_bytes, np.uint8))
        return taken[-1]

    view = blobs.get_view("a/b", 5, take)
    assert view is not None
    assert view.tobytes() == b"abcde"
    assert len(taken) <= 1
    assert all(room is view for room in taken)
    assert blobs.get_view("a/c", 5, take) is None
    with pytest.raises(FormatError, match="'a/b' in .* has 5 bytes, it should have 4 at most"):
        blobs.get_view("a/b", 4, take)


def test_parts_are_filled_or_the_object_is_refused(blobs: Blobs) -> None:
    parts = [np.zeros(3, np.uint8), np.zeros(2, np.uint8)]
    assert blobs.get_into("a/b", parts)
    assert b"".join(parts) == b"abcde"
    assert not blobs.get_into("a/c", parts)
    for wrong in (parts[:1], [*parts, parts[0]]):
        with pytest.raises(FormatError, match="'a/b' in .* has 5 bytes, it should have"):
            blobs.get_into("a/b", wrong)


def test_an_empty_object_is_one(blobs: Blobs) -> None:
    blobs.put("e", [b""])
    view = blobs.get_view("e", 5, lambda n_bytes: np.empty(n_bytes, np.uint8))
    assert view is not None
    assert (view.nbytes, view.dtype) == (0, np.uint8)
    assert blobs.get_into("e", [])


def test_a_store_that_only_reads_is_read_as_files_and_written_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    store = zarr.storage.LocalStore(tmp_path, read_only=True)
    reading, other = blobs_at(store, is_reading=True), blobs_at(store)
    assert (type(reading), type(other)) == (FileBlobs, ZarrBlobs)
    assert reading.get("a") == other.get("a") == b"abc"
    with pytest.raises(ValueError, match="read-only"):
        other.put("a", [b"x"])
