"""The same array wherever Zarr can lie, and what is asked of the place."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
import zarr
from s3_server import SECRETS
from test_fetch_zarr import only, rows_of, values_of
from zarr.codecs import Crc32cCodec, ZstdCodec

from jaxstore.sources.fetch_zarr import open_zarr_arrays
from jaxstore.stores.blobs import FileBlobs

SHAPE, CHUNKS = (20, 6), (8, 3)
VALUES = values_of(SHAPE, "f4")
LAYOUTS: dict[str, dict[str, Any]] = {
    "raw": dict(chunks=CHUNKS, compressors=None),
    "raw, crc32c": dict(chunks=CHUNKS, compressors=[Crc32cCodec()]),
    "zstd": dict(chunks=CHUNKS, compressors=[ZstdCodec()]),
    "sharded": dict(shards=CHUNKS, chunks=(4, 3)),
}
N_STORED = 6


def fill(store: Any) -> Any:
    """An array for each layout in the group "in"; the store."""
    group = zarr.open_group(store, mode="a").create_group("in")
    for name, layout in LAYOUTS.items():
        group.create_array(name, shape=SHAPE, dtype="f4", **layout)[...] = VALUES
    return store


class TestPlaces:
    @pytest.fixture(
        params=[
            *("path", "file url", "local obstore", "memory obstore", "local", "local, read only"),
            *("object", "memory", "zip", "group", "group, read only", "icechunk", "s3 url", "s3"),
        ]
    )
    def where(self, request: Any, tmp_path: Path) -> Any:
        """A place with the group "in", and whether it is remote."""
        folder = tmp_path / "g.zarr"
        stores = zarr.storage
        match request.param:
            case "path":
                fill(folder)
                return folder, False
            case "file url":
                fill(folder)
                return folder.as_uri(), False
            case "local obstore":
                fill(folder)
                return obstore.store.LocalStore(folder), False
            case "memory obstore":
                store = obstore.store.MemoryStore()
                fill(stores.ObjectStore(store))
                return store, False
            case "local":
                return fill(stores.LocalStore(folder)), False
            case "local, read only":
                fill(folder)
                return stores.LocalStore(folder, read_only=True), False
            case "object":
                return fill(stores.ObjectStore(obstore.store.MemoryStore())), False
            case "memory":
                return fill(stores.MemoryStore()), False
            case "zip":
                with stores.ZipStore(tmp_path / "g.zip", mode="w") as store:
                    fill(store)
                return stores.ZipStore(tmp_path / "g.zip", mode="r"), False
            case "group":
                return zarr.open_group(fill(stores.MemoryStore())), False
            case "group, read only":
                return zarr.open_group(fill(folder), mode="r"), False
            case "icechunk":
                return fill_icechunk(folder), True
        bucket = request.getfixturevalue("s3_bucket")
        place = obstore.store.from_url(f"s3://{bucket}/g.zarr")
        fill(stores.ObjectStore(place))
        return f"s3://{bucket}/g.zarr" if request.param == "s3 url" else place, True

    def test_all_arrays_are_read(self, where: Any) -> None:
        place, is_remote = where
        found = open_zarr_arrays(place, None, is_strict=True)
        assert sorted(found) == sorted(f"in/{name}" for name in LAYOUTS)
        for source in found.values():
            assert np.array_equal(rows_of(source), VALUES)
            assert source.is_remote == is_remote
            assert not any(secret in source.location for secret in SECRETS)
            source.close()


def fill_icechunk(folder: Path) -> Any:
    icechunk = pytest.importorskip("icechunk")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repository.writable_session("main")
    fill(session.store)
    session.commit("filled")
    return repository.readonly_session("main").store


def test_an_array_that_is_open_is_read(tmp_path: Path) -> None:
    group = zarr.open_group(fill(tmp_path / "g.zarr"), mode="r")
    source = only(group["in/raw"])
    assert source.geometry.name == "raw"
    assert np.array_equal(rows_of(source), VALUES)


@pytest.mark.parametrize("open_it", [zarr.open_group, zarr.storage.LocalStore])
def test_a_place_that_only_reads_is_read_without_zarr(open_it: Any, tmp_path: Path) -> None:
    fill(tmp_path / "g.zarr")
    settings: Any = {"mode": "r"} if open_it is zarr.open_group else {"read_only": True}
    place = open_it(tmp_path / "g.zarr", **settings)
    for source in open_zarr_arrays(place, None, is_strict=True).values():
        assert isinstance(source.blobs, FileBlobs)


class Counting(zarr.storage.WrapperStore):
    """Records what is asked for."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.asked: list[tuple[str, bool]] = []

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        self.asked.append((key, byte_range is None))
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_stored_chunk_is_asked_for_once_and_whole(name: str) -> None:
    store = Counting(fill(zarr.storage.MemoryStore()))
    (source,) = open_zarr_arrays(store, [f"in/{name}"], is_strict=True).values()
    assert store.asked == [(f"in/{name}/zarr.json", True)]
    store.asked.clear()
    assert np.array_equal(rows_of(source), VALUES)
    asked = Counter(store.asked)
    assert set(asked.values()) == {1}
    assert {key for key, is_whole in asked if is_whole} == {
        f"in/{name}/c/{i}/{j}" for i in range(3) for j in range(2)
    }


def test_consolidated_metadata_take_one_request() -> None:
    store = Counting(fill(zarr.storage.MemoryStore()))
    with pytest.warns(UserWarning, match="onsolidated"):
        zarr.consolidate_metadata(store)
    store.asked.clear()
    assert len(open_zarr_arrays(store, None, is_strict=True)) == len(LAYOUTS)
    assert store.asked == [("zarr.json", True)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_many_threads_read_the_same_bytes_as_one(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(256, 200)).astype("f4")
    layout = {"raw": dict(compressors=None)}.get(name, {}) | {
        key: (4, 67) if key == "chunks" else (8, 67) if key == "shards" else value
        for key, value in LAYOUTS[name].items()
    }
    zarr.create_array(tmp_path / "a", shape=values.shape, dtype="f4", **layout)[...] = values
    source = only(tmp_path / "a")
    g = source.geometry
    rows = np.empty(values.shape, "f4")
    together = threading.Barrier(4)

    def read(worker: int) -> None:
        together.wait()
        for chunk in range(worker, g.n_chunks, 4):
            place = g.samples_in_chunk(chunk)
            for index in source.stored_chunks(chunk):
                source.read(index, rows[place.start : place.stop])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert np.array_equal(rows, values)
