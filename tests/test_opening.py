"""Any place as sources of rows: paths, URLs, handles, runs, arrays, and mappings of them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import obstore.store
import pytest
import zarr
from row_sources import rows_of

from jaxstore.errors import FormatError, MissingError
from jaxstore.processing.result_array import ResultArray
from jaxstore.sources.fetch_hdf5_direct import ChunkedRows
from jaxstore.sources.opening import (
    ensure_local_dir,
    open_arrays,
    open_geometries,
    store_from_url,
)
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.results_place import results_at

RNG = np.random.default_rng(0)
DATA = {
    "x": RNG.normal(size=(10, 4)).astype("f4"),
    "g/y": RNG.integers(0, 9, (7, 2, 3)),
}


def write_zarr(store, *, version=3):
    group = zarr.open_group(store, mode="a", zarr_format=version)
    for name, values in DATA.items():
        group.create_array(name, data=values, chunks=(4, *values.shape[1:]))
    return group


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        for name, values in DATA.items():
            file.create_dataset(name, data=values, chunks=(4, *values.shape[1:]))
        file["text"] = ["a"]


@pytest.fixture
def folder(tmp_path):
    """One data set as Zarr v3, v2 and HDF5."""
    write_zarr(tmp_path / "a.zarr")
    write_zarr(tmp_path / "old.zarr", version=2)
    write_hdf5(tmp_path / "a.h5")
    return tmp_path


def assert_all(sources):
    assert set(sources) == set(DATA)
    for name, values in DATA.items():
        np.testing.assert_array_equal(rows_of(sources[name]), values)


class TestPlaces:
    @pytest.mark.parametrize("name", ["a.zarr", "old.zarr", "a.h5"])
    def test_a_path_a_text_and_a_url_are_places(self, folder, name):
        for where in (folder / name, str(folder / name), f"file://{folder}/{name}"):
            assert_all(open_arrays(where))

    def test_what_a_file_is_decides_not_how_it_ends(self, folder):
        (folder / "a.h5").rename(folder / "a.nc")
        assert_all(open_arrays(folder / "a.nc"))

    def test_handles_of_each_library_are_places(self, folder):
        with h5py.File(folder / "a.h5") as file:
            assert_all(open_arrays(file))
            np.testing.assert_array_equal(rows_of(open_arrays(file["g"])["y"]), DATA["g/y"])
            np.testing.assert_array_equal(rows_of(open_arrays(file["x"])["x"]), DATA["x"])
        group = zarr.open_group(folder / "a.zarr", mode="r")
        assert_all(open_arrays(group))
        assert_all(open_arrays(group.store))
        assert_all(open_arrays(obstore.store.LocalStore(folder / "a.zarr")))
        np.testing.assert_array_equal(rows_of(open_arrays(group["g"])["y"]), DATA["g/y"])
        np.testing.assert_array_equal(rows_of(open_arrays(group["x"])["x"]), DATA["x"])

    @pytest.mark.parametrize("make", [obstore.store.MemoryStore, zarr.storage.MemoryStore])
    def test_stores_in_memory_are_places(self, make):
        store = make()
        is_zarr = isinstance(store, zarr.storage.MemoryStore)
        write_zarr(store if is_zarr else zarr.storage.ObjectStore(store))
        assert_all(open_arrays(store))

    @pytest.mark.parametrize("kind", ["memory", "hdf5"])
    def test_a_store_of_jaxstore_is_a_place(self, kind, tmp_path):
        store = MemoryStore() if kind == "memory" else HDF5Store.new(tmp_path / "a.h5")
        for name, values in DATA.items():
            dims = tuple("abc"[: values.ndim])
            store.create(ArraySpec(name, values.shape, values.shape, values.dtype, dims))
            store.write(name, (0,) * values.ndim, values)
        store.commit({})
        store.seal()
        assert_all(open_arrays(store))
        y = open_arrays(store, ["g/y"], axis=2)["g/y"]
        np.testing.assert_array_equal(rows_of(y), np.moveaxis(DATA["g/y"], 2, 0))
        store.close()

    def test_what_a_result_shows_of_an_array_is_a_place(self, tmp_path):
        place = results_at(tmp_path / "results.zarr")
        spec = ArraySpec("x", (10, 4), (4, 4), np.dtype("f4"), ("item", "dim"))
        group = place.create("raw-f_000", manifest={}, specs=[spec], n_units=1)
        group.write("x", (0, 0), DATA["x"])
        for n in (10, 7):
            array = ResultArray(group, replace(spec, shape=(n, 4)), place)
            assert (array.address is None) == (n == 7)
            np.testing.assert_array_equal(rows_of(open_arrays(array)["x"]), DATA["x"][:n])
            found = open_arrays({"label": array}, axis={"label": 1})["label"]
            np.testing.assert_array_equal(rows_of(found), DATA["x"][:n].T)
            found.close()
        with pytest.raises(MissingError, match="no 'y' here. There is: 'x'"):
            open_arrays(array, ["y"])
        np.testing.assert_array_equal(group.read("x"), DATA["x"])  # still open
        group.close()

    @pytest.mark.parametrize("kind", ["a.zarr", "a.h5", "store", "array", "mapping"])
    def test_an_axis_of_no_array_is_refused(self, folder, kind):
        store = MemoryStore()
        others = {"store": store, "array": DATA["x"], "mapping": dict(DATA)}
        where = others.get(kind, folder / kind)
        store.create(ArraySpec("x", (4,), (4,), np.dtype("f4"), ("a",)))
        with pytest.raises(MissingError, match="a sample axis is given for z, but the arrays are"):
            open_arrays(where, axis={"z": 1})

    def test_an_array_is_a_place(self):
        np.testing.assert_array_equal(rows_of(open_arrays(DATA["x"])["x"]), DATA["x"])

    @pytest.mark.parametrize("name", ["a.zarr", "old.zarr", "a.h5"])
    def test_one_array_may_be_named_behind_its_place(self, folder, name):
        for where in (f"{folder}/{name}:/g/y", f"file://{folder}/{name}:/g/y"):
            sources = open_arrays(where, axis=1)
            assert list(sources) == ["g/y"]
            np.testing.assert_array_equal(rows_of(sources["g/y"]), DATA["g/y"].swapaxes(0, 1))
        with pytest.raises(MissingError, match="is the array 'g/y' alone, variables are"):
            open_arrays(where, ["x"])

    @pytest.mark.parametrize("name", ["a.zarr", "old.zarr", "a.h5"])
    def test_variables_and_axes_go_by_name(self, folder, name):
        sources = open_arrays(folder / name, ["g/y", "x"], axis={"g/y": -1})
        assert list(sources) == ["g/y", "x"]
        np.testing.assert_array_equal(rows_of(sources["g/y"]), np.moveaxis(DATA["g/y"], -1, 0))
        np.testing.assert_array_equal(rows_of(sources["x"]), DATA["x"])

    def test_one_variable_may_be_text(self, folder):
        assert list(open_arrays(folder / "a.h5", "x")) == ["x"]

    def test_absent_chunks_are_errors_where_it_is_strict(self, folder):
        (folder / "a.zarr/x/c/1/0").unlink()
        assert not rows_of(open_arrays(folder / "a.zarr")["x"])[4:8].any()
        with pytest.raises(FormatError, match=r"'x' in .*chunk \(1, 0\)"):
            rows_of(open_arrays(folder / "a.zarr", is_strict=True)["x"])


class TestMappings:
    def test_each_label_has_a_place_of_its_own(self, folder):
        with h5py.File(folder / "a.h5") as file:
            sources = open_arrays(
                {
                    "inputs": f"{folder}/a.zarr:/x",
                    "targets": file["g/y"],
                    "x": folder / "a.h5",
                    "array": DATA["x"],
                    "only": zarr.open_array(folder / "a.zarr/x", mode="r"),
                }
            )
            for label in ("inputs", "x", "array", "only"):
                np.testing.assert_array_equal(rows_of(sources[label]), DATA["x"])
            np.testing.assert_array_equal(rows_of(sources["targets"]), DATA["g/y"])

    def test_variables_and_axes_are_those_of_the_labels(self):
        places = {"a": DATA["x"], "b": DATA["g/y"], "c": None}
        sources = open_arrays(places, ["b", "a"], axis={"b": 1})
        assert [source.geometry.n_samples for source in sources.values()] == [2, 10]

    def test_a_label_that_is_not_there_lists_those_there_are(self):
        with pytest.raises(MissingError, match="no 'z' in the mapping. There is: 'a'"):
            open_arrays({"a": DATA["x"]}, ["z"])

    def test_a_label_that_names_none_of_several_arrays_says_how_to(self, folder):
        with pytest.raises(MissingError, match="'z': its place has several.*'data.zarr:/x'"):
            open_arrays({"z": folder / "a.zarr"})


class TestRefusals:
    @pytest.mark.parametrize("name", ["a.zarr", "old.zarr", "a.h5"])
    def test_a_missing_variable_lists_those_there_are(self, folder, name):
        with pytest.raises(MissingError, match=r"'z'.*\bx\b"):
            open_arrays(folder / name, ["z"])

    @pytest.mark.parametrize("name", ["nothing.zarr", "nothing.h5", "nothing.zarr:/x"])
    def test_a_place_where_nothing_is_says_so(self, tmp_path, name):
        with pytest.raises(MissingError, match="nothing is there"):
            open_arrays(tmp_path / name if ":" not in name else f"{tmp_path}/{name}")

    def test_a_folder_without_arrays_says_so(self, tmp_path):
        zarr.open_group(tmp_path / "a.zarr", mode="w")
        with pytest.raises(MissingError, match="there is no array of numbers"):
            open_arrays(tmp_path / "a.zarr")

    def test_another_file_is_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", DATA["x"])
        with pytest.raises(FormatError, match="is not a readable HDF5 file"):
            open_arrays(tmp_path / "a.npy")

    @pytest.mark.parametrize("where", [3, None, [1, 2], object()])
    def test_what_is_no_place_is_refused(self, where):
        with pytest.raises(TypeError, match="is no place of arrays"):
            open_arrays(where)


class TestGeometries:
    def test_tell_how_the_arrays_are_cut_and_leave_nothing_open(self, folder):
        n_before = len(os.listdir("/proc/self/fd"))
        for name in ("a.zarr", "a.h5"):
            found = open_geometries(folder / name)
            assert found["x"].chunks == (4, 4)
            assert found["g/y"].shape == (7, 2, 3)
            found = open_geometries(folder / name, ["g/y"], axis=2)
            assert found["g/y"].n_samples == 3
        assert len(os.listdir("/proc/self/fd")) == n_before

    def test_options_are_for_urls(self, folder):
        with pytest.raises(TypeError, match="region: options are for URLs, not for a PosixPath"):
            open_geometries(folder / "a.zarr", region="x")

    def test_options_of_a_url_reach_obstore(self, s3_server, s3_bucket, monkeypatch):
        url = f"s3://{s3_bucket}/a.zarr"
        write_zarr(store_from_url(url, read_only=False))
        told = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
        for name in told:
            monkeypatch.delenv(name)
        options = {name.removeprefix("AWS_").lower(): value for name, value in told.items()}
        is_http = options.pop("allow_http", None)
        found = open_geometries(url, **options, client_options={"allow_http": is_http is not None})
        assert found["x"].shape == (10, 4)


class TestStoreFromUrl:
    def test_a_store_of_a_url_is_one_for_zarr_and_for_us(self, folder, s3_bucket):
        for url in (f"file://{folder}/b.zarr", str(folder / "c.zarr"), "memory://",
                    f"s3://{s3_bucket}/a.zarr"):  # fmt: skip
            store = store_from_url(url, read_only=False)
            write_zarr(store)
            assert_all(open_arrays(store))
            if url != "memory://":
                reading = store_from_url(url)
                assert reading.read_only
                np.testing.assert_array_equal(zarr.open_group(reading, mode="r")["x"], DATA["x"])
                assert_all(open_arrays(reading))

    def test_a_wrong_option_is_refused_without_its_value(self):
        with pytest.raises(FormatError, match="s3://b/a.zarr cannot be opened with the") as caught:
            store_from_url("s3://KEY:SECRET@b/a.zarr", nonsense="SECRET2")
        assert "SECRET" not in str(caught.value)
        assert caught.value.__context__ is None

    def test_a_path_takes_no_options(self):
        with pytest.raises(FormatError, match="a local path takes no options"):
            store_from_url("/tmp/a.zarr", region="x")


def test_a_local_folder_is_made_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in (tmp_path / "a/b", f"{tmp_path}/c/d", f"file://{tmp_path}/e%20f/g", "h/i"):
        ensure_local_dir(where)
        ensure_local_dir(where)
    for url in ("s3://bucket/x", "memory://x"):
        ensure_local_dir(url)
    made = {path.relative_to(tmp_path).as_posix() for path in Path(tmp_path).glob("*/*")}
    assert made == {"a/b", "c/d", "e f/g", "h/i"}


def test_an_icechunk_session_is_a_place():
    icechunk = pytest.importorskip("icechunk")
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")
    write_zarr(session.store)
    assert_all(open_arrays(session.store))


def test_formats_are_imported_when_they_are_needed():
    code = (
        "import sys, numpy as np, jaxstore.sources.opening as o\n"
        "o.open_geometries({'x': np.zeros((3, 2))})\n"
        "assert not {'h5py', 'zarr', 'obstore'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_with_a_colon_is_a_path(folder):
    (folder / "b:").mkdir()
    (folder / "a.h5").rename(folder / "b:/x.h5")
    assert isinstance(open_arrays(f"{folder}/b:/x.h5")["x"], ChunkedRows)
