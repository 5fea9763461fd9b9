from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pytest
import zarr

from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.stores.location import create_store, open_store
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.urls import redact
from jaxstore.stores.zarr3 import ZarrStore

h5py = pytest.importorskip("h5py")


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.he5", "a.H5"])
def test_the_suffix_of_a_new_path_decides_on_hdf5(tmp_path: Path, name: str) -> None:
    store = create_store(tmp_path / name)
    store.close()
    assert type(store).__name__ == "HDF5Store"
    assert h5py.is_hdf5(tmp_path / name)


@pytest.mark.parametrize("name", ["a.zarr", "a", "a.h5.zarr"])
def test_every_other_path_is_zarr(tmp_path: Path, name: str) -> None:
    assert isinstance(create_store(str(tmp_path / name), compression=None), ZarrStore)
    assert isinstance(open_store(str(tmp_path / name)), ZarrStore)


def test_urls_are_zarr_and_file_urls_are_paths(tmp_path: Path) -> None:
    assert isinstance(create_store("memory://"), ZarrStore)
    create_store((tmp_path / "a.h5").as_uri()).close()
    assert h5py.is_hdf5(tmp_path / "a.h5")
    with pytest.raises(FormatError, match=r"s3://bucket/a.h5: HDF5 needs a local path"):
        create_store("s3://KEY:SECRET@bucket/a.h5")


def test_handles_choose_their_format(tmp_path: Path) -> None:
    for handle in (obstore.store.MemoryStore(), zarr.storage.MemoryStore(), zarr.group()):
        assert isinstance(create_store(handle), ZarrStore)
        assert isinstance(open_store(handle), ZarrStore)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for make in (create_store, open_store):
            assert type(make(file.require_group("g"))).__name__ == "HDF5Store"


def test_a_store_is_returned_as_it_is() -> None:
    store = MemoryStore()
    assert create_store(store) is store
    assert open_store(store) is store


@pytest.mark.parametrize("user_block_bytes", [0, 512, 4096])
def test_the_content_of_a_file_decides_when_it_is_opened(
    tmp_path: Path, user_block_bytes: int
) -> None:
    path = tmp_path / "no_suffix"
    with h5py.File(path, "w", userblock_size=user_block_bytes) as file:
        file["x"] = np.arange(3)
    store = open_store(path)
    assert type(store).__module__.startswith("jaxstore.stores.hdf5")
    store.close()


def test_a_folder_that_is_called_h5_is_zarr(tmp_path: Path) -> None:
    ZarrStore.new(tmp_path / "a.h5")
    assert isinstance(open_store(tmp_path / "a.h5"), ZarrStore)


def test_what_is_not_there_or_not_ours_is_named(tmp_path: Path) -> None:
    for name in ("a.h5", "a.zarr"):
        with pytest.raises(MissingError, match=f"{name}.*nothing is there"):
            open_store(tmp_path / name)
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(FormatError, match=r"a.txt is neither"):
        open_store(tmp_path / "a.txt")
    with pytest.raises(ExistsError):
        create_store(tmp_path / "a.txt")


@pytest.mark.parametrize("place", [3, None, {}, b"a.zarr"])
def test_what_is_no_place_is_refused(place: Any) -> None:
    for use in (create_store, open_store):
        with pytest.raises(TypeError, match="is no place for a store"):
            use(place)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/run", "s3://bucket/run"),
        ("s3://KEY:SEC/RET@bucket/run", "s3://bucket/run"),
        ("s3://KEY:SEC?RET@bucket/run", "s3://bucket/run"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("https://host:8080/a?token=x#y", "https://host:8080/a"),
        ("https://user@host/a", "https://host/a"),
        ("https://me:SEC", "https://***"),
        ('HTTPStore("https://u:p@h/x?tok=1")', 'HTTPStore("https://h/x")'),
        ("/plain/path?query", "/plain/path?query"),
    ],
)
def test_secrets_are_taken_out(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_what_is_durable_is_synced_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for durable in (False, True):
        for make in (create_store, partial(open_store, mode="r+")):
            del synced[:]
            with closing(make(tmp_path / f"{durable}-{name}", durable=durable)) as store:
                store.commit({"draws": 1})
            assert bool(synced) == durable
    open_store(tmp_path / f"True-{name}").close()


def test_importing_loads_no_format() -> None:
    loaded = (
        "import sys, jaxstore.stores.location; print({'h5py', 'zarr', 'obstore'} & {*sys.modules})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "set()"
