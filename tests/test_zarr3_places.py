from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore.store
import pytest
import zarr
from arrays import Reopen
from contracts import StoreContract

from jaxstore.stores.zarr3 import ZarrStore


class TestPath(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        return ZarrStore.new(tmp_path / "deep" / "run.zarr")

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        return lambda: ZarrStore.open(tmp_path / "deep" / "run.zarr")


class TestPlainPath(TestPath):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        return ZarrStore.new(str(tmp_path / "deep" / "run.zarr"), compression=None, checksum=False)


class TestFileUrl(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        return ZarrStore.new((tmp_path / "a run").as_uri())

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen:
        return lambda: ZarrStore.open(tmp_path / "a run")


class TestMemoryUrl(StoreContract):
    @pytest.fixture
    def store(self) -> ZarrStore:
        return ZarrStore.new("memory://")

    @pytest.fixture
    def reopen(self, store: ZarrStore) -> Reopen:
        return store.reader


class PlaceContract(StoreContract):
    """The contract where one handle names the place."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def store(self, place: Any) -> ZarrStore:
        return ZarrStore.new(place, compression="lz4")

    @pytest.fixture
    def reopen(self, place: Any) -> Reopen:
        return lambda: ZarrStore.open(place)


class TestObstoreMemory(PlaceContract):
    @pytest.fixture
    def place(self) -> Any:
        return obstore.store.MemoryStore()


class TestObstoreLocal(PlaceContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return obstore.store.LocalStore(tmp_path)


class TestZarrMemory(PlaceContract):
    @pytest.fixture
    def place(self) -> Any:
        return zarr.storage.MemoryStore()


class TestZarrLocal(PlaceContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        return zarr.storage.LocalStore(tmp_path / "run.zarr")


class TestZarrGroup(PlaceContract):
    @pytest.fixture(params=["local", "memory", "object"])
    def place(self, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
        places: dict[str, Any] = {
            "local": tmp_path,
            "memory": zarr.storage.MemoryStore(),
            "object": zarr.storage.ObjectStore(obstore.store.MemoryStore()),
        }
        return zarr.open_group(places[request.param]).create_group("a/b")
