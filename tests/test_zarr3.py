from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pytest
import xarray
import zarr
from arrays import assert_same_bits, numbers, ramp, spec
from zarr_places import SETTINGS, every_file

from jaxstore.errors import BusyError, ExistsError, FormatError, MissingError
from jaxstore.stores.blobs import blobs_at
from jaxstore.stores.zarr3 import ZarrStore
from jaxstore.stores.zarr3_checksum import with_checksum

# --- zarr and xarray read what was written ---


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float16", "float32", "complex128"])
def test_zarr_reads_what_was_written(tmp_path: Path, settings: dict[str, Any], dtype: str) -> None:
    store = ZarrStore.new(tmp_path / "a", **settings)
    values = numbers((2, 11, 3), dtype)
    store.create(spec("g/x", (2, 0, 3), (2, 4, 3), dtype, unit="m"))
    store.write("g/x", (0, 0, 0), values)
    store.resize("g/x", values.shape)
    group = zarr.open_group(tmp_path / "a", mode="r")
    array = group["g/x"]
    assert_same_bits(array[:], values)
    assert array.metadata.dimension_names == ("chain", "draw", "dim_0")
    assert set(array.attrs) == {"unit", "jaxstore_checksum"}
    codecs = [
        codec["name"] for codec in json.loads((tmp_path / "a/g/x/zarr.json").read_text())["codecs"]
    ]
    packed = ["blosc"] if settings["compression"] else []
    assert codecs == ["bytes", *packed, *(["crc32c"] if settings["checksum"] else [])]


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_zarr_wrote_into_our_array_is_merged(tmp_path: Path, settings: dict[str, Any]) -> None:
    store = ZarrStore.new(tmp_path / "a", **settings)
    store.create(spec("x", (1, 8), (1, 8)))
    zarr.open_group(tmp_path / "a")["x"][:] = ramp((1, 8))
    store.write("x", (0, 2), -ramp((1, 3)))
    wanted = ramp((1, 8))
    wanted[:, 2:5] = -ramp((1, 3))
    assert_same_bits(store.read("x"), wanted)


@pytest.mark.parametrize("chunk", [2, 16])
def test_a_sealed_store_opens_as_a_datatree_without_warnings(tmp_path: Path, chunk: int) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.set_attrs({"state": "finished"})
    store.create(spec("posterior/theta", (2, 9, 3), (2, chunk, 3), "float64"))
    store.write("posterior/theta", (0, 0, 0), ramp((2, 9, 3), "float64"))
    store.create(spec("posterior/nested/phi", (2, 9), (2, chunk), "bfloat16"))
    store.create_labels("posterior/dim_0", ["ß", "b", ""])
    store.commit({"draws": 9})
    store.seal()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xarray.open_datatree(tmp_path / "a", engine="zarr")
        theta = tree["posterior/theta"]
        assert theta.dims == ("chain", "draw", "dim_0")
        assert theta.coords["dim_0"].values.tolist() == ["ß", "b", ""]
        assert np.array_equal(theta.values, ramp((2, 9, 3)))
        assert tree["posterior/nested/phi"].dtype == "uint16"
        assert zarr.open_group(tmp_path / "a", use_consolidated=True).attrs["state"] == "finished"
        tree.close()


@pytest.mark.parametrize("change", ["create", "resize", "set_attrs", "commit", "create_labels"])
def test_what_a_sealed_store_says_is_never_stale(tmp_path: Path, change: str) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("g/x", (1, 4), (1, 4)))
    store.seal()
    store = ZarrStore.open(tmp_path / "a", mode="r+")
    changes: dict[str, Callable[[], None]] = {
        "create": lambda: store.create(spec("g/y", (1, 4), (1, 4))),
        "resize": lambda: store.resize("g/x", (1, 8)),
        "set_attrs": lambda: store.set_attrs({"a": 1}, "g"),
        "commit": lambda: store.commit({"draws": 1}),
        "create_labels": lambda: store.create_labels("g/l", ["a"]),
    }
    changes[change]()
    assert "consolidated_metadata" not in json.loads((tmp_path / "a/zarr.json").read_text())


def test_a_store_does_not_trust_consolidated_metadata(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 4), (1, 4)))
    store.seal()
    path = tmp_path / "a/x/zarr.json"  # as by a writer that was killed before it drops the copies
    document = {**json.loads(path.read_text()), "shape": [1, 6]}
    path.write_text(json.dumps(with_checksum(document, own=())))
    assert ZarrStore.open(tmp_path / "a").spec("x").shape == (1, 6)
    assert ZarrStore.open(tmp_path / "a").read("x").shape == (1, 6)


# --- live readers ---


def test_labels_are_a_coordinate_and_no_array(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create_labels("g/city", ["Zürich", ""])
    assert zarr.open_group(tmp_path / "a")["g/city"].metadata.dimension_names == ("city",)
    assert store.names() == []


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 0), (1, 4)))
    readers = [store.reader(), ZarrStore.open(tmp_path / "a")]
    for stop in (4, 8, 12):
        store.write("x", (0, stop - 4), ramp((1, 4)))
        store.resize("x", (1, stop))
        store.commit({"draws": stop})
        for reader in readers:
            assert reader.committed() == {"draws": stop}
            assert reader.read("x").shape == (1, stop)


@pytest.mark.parametrize("state", ["closed", "reader"])
def test_a_reader_and_a_closed_store_refuse_to_write(tmp_path: Path, state: str) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 4), (1, 4)))
    before = every_file(tmp_path)
    if state == "closed":
        store.close()
    else:
        store = store.reader()
    for refused in (
        lambda: store.create(spec("y", (1, 4), (1, 4))),
        lambda: store.write("x", (0, 0), ramp((1, 4))),
        lambda: store.resize("x", (1, 8)),
        lambda: store.set_attrs({"a": 1}),
        lambda: store.commit({}),
        lambda: store.seal(),
    ):
        with pytest.raises(BusyError, match=r"mode 'r\+'"):
            refused()
    assert every_file(tmp_path) == before


# --- refusals ---


def make_something(path: Path, what: str) -> None:
    if what == "file":
        path.write_text("mine")
    elif what == "folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif what == "subfolder":
        (path / "a" / "b").mkdir(parents=True)
        (path / "a" / "b" / "c").write_text("mine")
    elif what == "store":
        ZarrStore.new(path).commit({"draws": 3})
    else:
        zarr.create_array(path, shape=(3,), dtype="f4")


@pytest.mark.parametrize("what", ["file", "folder", "subfolder", "store", "array"])
def test_nothing_is_created_over_anything(tmp_path: Path, what: str) -> None:
    make_something(tmp_path / "a", what)
    before = every_file(tmp_path)
    with pytest.raises(ExistsError, match=rf"{tmp_path}/a.*Choose another"):
        ZarrStore.new(tmp_path / "a")
    assert every_file(tmp_path) == before


def test_nothing_is_created_over_objects() -> None:
    place = obstore.store.MemoryStore()
    obstore.put(place, "a/notes.txt", b"mine")
    with pytest.raises(ExistsError, match=r"memory://.*'a/notes.txt'"):
        ZarrStore.new(place)
    assert [e["path"] for e in obstore.list(place).collect()] == ["a/notes.txt"]


def test_nothing_is_created_in_a_group_that_is_in_use() -> None:
    group = zarr.open_group(zarr.storage.MemoryStore())
    group.attrs["mine"] = 1
    with pytest.raises(ExistsError, match=r"zarr\.json"):
        ZarrStore.new(group)


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert ZarrStore.new(tmp_path / "a").names() == []


def test_opening_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nothing is there"):
        ZarrStore.open(tmp_path / "a")
    with pytest.raises(MissingError, match="nothing is there"):
        ZarrStore.open(obstore.store.MemoryStore())
    assert not (tmp_path / "a").exists()


def test_opening_what_is_no_group_says_so(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="f4")
    with pytest.raises(FormatError, match="one Zarr array"):
        ZarrStore.open(tmp_path / "array")
    zarr.open_group(tmp_path / "v2", zarr_format=2)
    with pytest.raises(FormatError, match=r"no Zarr v3 group.*\.zgroup"):
        ZarrStore.open(tmp_path / "v2")
    for text in ("", "[1]", "{}", '{"zarr_format": 3, "node_type": "x"}', "[" * 100_000):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken/zarr.json").write_text(text)
        with pytest.raises(FormatError, match=r"zarr\.json"):
            ZarrStore.open(tmp_path / "broken")


def test_unknown_settings_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'gzip'"):
        ZarrStore.new(tmp_path / "a", compression="gzip")
    with pytest.raises(ValueError, match="mode must be"):
        ZarrStore.open(tmp_path / "a", mode="w")
    with pytest.raises(TypeError, match="int is no place"):
        ZarrStore.new(3)
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_is_refused_keeps_its_secrets() -> None:
    with pytest.raises(
        FormatError, match="nope://host/a cannot be opened as an object store"
    ) as caught:
        ZarrStore.new("nope://me:secret@host/a?token=secret")
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None  # obstore's error shows the whole URL


def test_locations_hide_credentials() -> None:
    assert blobs_at("s3://KEY:SECRET@bucket/run.zarr").location == "s3://bucket/run.zarr"
    assert "secret" not in blobs_at("https://me:secret@host/a?token=secret").location
    place = obstore.store.from_url("https://me:secret@host/a?token=secret")
    assert "secret" not in blobs_at(place).location
    assert "secret" not in blobs_at(zarr.storage.ObjectStore(place)).location


@pytest.mark.parametrize("name", ["..", "../x", "a/../x", "", "/x", "a//b", "a\\b", "zarr.json"])
def test_names_that_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    store = ZarrStore.new(tmp_path / "a")
    before = every_file(tmp_path)
    with pytest.raises(ValueError, match="no name in a store"):
        store.create(spec(name, (1, 2), (1, 2)))
    assert every_file(tmp_path) == before


def test_a_chunk_too_large_to_be_read_is_refused(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    with pytest.raises(ValueError, match="Choose smaller chunks"):
        store.create(spec("x", (1, 0), (1, 1 << 29)))
    assert store.names() == []


def test_arrays_of_other_programs_are_read_but_not_written(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a")
    for name, options in {
        "gzip": {"compressors": zarr.codecs.GzipCodec()},
        "sharded": {"shards": (1, 4)},
        "filled": {"compressors": None, "fill_value": 3.0},
    }.items():
        group.create_array(name, shape=(1, 8), chunks=(1, 2), dtype="f4", **options)[:] = 1
    store = ZarrStore.open(tmp_path / "a", mode="r+")
    assert store.spec("sharded").chunks == (1, 4)
    assert store.spec("gzip").dims == ("dim_0", "dim_1")
    for name in ("gzip", "sharded", "filled"):
        assert_same_bits(store.read(name), np.ones((1, 8), "float32"))
        with pytest.raises(FormatError, match="another program"):
            store.write(name, (0, 0), ramp((1, 2)))
