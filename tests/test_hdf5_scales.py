"""Dimensions and labels in HDF5 files, as xarray reads them."""

import warnings

import h5py
import numpy as np
import pytest
from arrays import ramp
from hdf5_files import named, opened

from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.stores.hdf5 import HDF5Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.fixture
def store(path):
    store = HDF5Store.new(path)
    yield store
    store.close()


class TestDims:
    @pytest.fixture
    def tree(self, path, store):
        pytest.importorskip("h5netcdf")
        xarray = pytest.importorskip("xarray")

        def load():
            store.seal()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with xarray.open_datatree(path, engine="h5netcdf") as tree:
                    return tree.load()

        return load

    def test_xarray_finds_dimensions_in_nested_groups(self, path, store, tree):
        xarray = pytest.importorskip("xarray")
        store.create(named("posterior/theta", ("chain", "draw", "feature"), (2, 6, 3)))
        store.create(named("posterior/feature", ("feature",), (3,), "int64"))
        store.create(named("posterior/inner/w", ("chain", "draw"), (2, 6), "float64"))
        store.create(named("stats/ok", ("chain", "draw"), (2, 4), "bool"))
        store.create(named("stats/z", ("chain", "draw"), (2, 4), "complex64"))
        store.create(named("stats/h", ("chain", "draw"), (2, 4), "float16"))
        store.create(named("n", (), (), "int64"))
        store.write("posterior/theta", (0, 0, 0), ramp((2, 6, 3)))
        store.write("posterior/feature", (0,), ramp((3,), "int64"))
        store.write("stats/ok", (0, 0), np.ones((2, 4), bool))
        store.set_attrs({"unit": "m", "list": [1, 2], "on": True, "n": 3}, "posterior/theta")
        found = tree()
        theta = found["posterior/theta"]
        assert theta.dims == ("chain", "draw", "feature")
        assert theta.values.tolist() == ramp((2, 6, 3)).tolist()
        assert theta.feature.values.tolist() == [1, 2, 3]
        assert theta.attrs["unit"] == "m"
        assert dict(found["posterior/inner/w"].sizes) == {"chain": 2, "draw": 6}
        assert found["stats/ok"].dtype == bool
        assert found["stats/z"].dtype == "complex64"
        assert sorted(found["posterior"].data_vars) == ["theta"]
        with xarray.open_dataset(path, engine="h5netcdf", group="posterior") as dataset:
            assert dict(dataset.sizes) == {"chain": 2, "draw": 6, "feature": 3}
        assert store.spec("posterior/theta").dims == ("chain", "draw", "feature")
        assert store.spec("posterior/feature").dims == ("feature",)

    def test_dimensions_follow_a_resize(self, path, store, tree):
        for name in ("x", "y"):
            store.create(named(name, ("chain", "draw"), (2, 4)))
        store.resize("x", (2, 9))
        assert tree().sizes["draw"] == 9
        store.resize("x", (2, 3))
        store.resize("y", (2, 3))
        assert dict(tree().sizes) == {"chain": 2, "draw": 3}
        with h5py.File(path) as file:
            assert file["draw"].shape == (3,)

    @pytest.mark.parametrize("sizes", [(4, 7), (7, 4)])
    def test_one_dimension_may_have_two_sizes_for_a_moment(self, store, tree, sizes):
        for name, size in zip("xy", sizes, strict=True):
            store.create(named(name, ("draw",), (size,)))
        found = tree()
        assert found.sizes["draw"] == 7
        assert store.spec("x").shape == (sizes[0],)

    def test_a_coordinate_takes_over_from_the_pure_dimension(self, path, store, tree):
        store.create(named("x", ("chain", "draw"), (2, 4)))
        store.create(named("y", ("draw",), (4,)))
        store.create(named("draw", ("draw",), (4,), "int32"))
        store.write("draw", (0,), np.arange(10, 14, dtype="int32"))
        store.create(named("z", ("draw",), (4,)))
        assert store.names() == ["draw", "x", "y", "z"]
        assert [store.spec(k).dims for k in ("x", "y", "z")] == [
            ("chain", "draw"),
            ("draw",),
            ("draw",),
        ]
        found = tree()
        assert found["x"].draw.values.tolist() == [10, 11, 12, 13]
        assert found["z"].draw.values.tolist() == [10, 11, 12, 13]
        with h5py.File(path) as file:
            assert sorted(file) == ["chain", "draw", "x", "y", "z"]

    def test_arrays_and_groups_may_have_names_of_dimensions(self, store, tree):
        store.create(named("x", ("chain", "draw", "group"), (2, 4, 3)))
        store.create(named("draw", ("chain", "draw"), (2, 4)))  # an array, not a coordinate
        store.create(named("group/y", ("draw",), (4,)))
        store.create(named("z", ("group", "draw"), (3, 4)))
        assert store.names() == ["draw", "group/y", "x", "z"]
        assert store.spec("x").dims == ("chain", "draw", "group")
        assert store.spec("draw").dims == ("chain", "draw")
        assert store.spec("z").dims == ("group", "draw")
        store.resize("x", (2, 5, 3))
        found = tree()
        assert found["x"].dims == ("chain", "draw_dim", "group_dim")
        assert found.sizes["draw_dim"] == 5

    def test_pure_dimensions_are_no_arrays(self, store):
        store.create(named("x", ("chain", "draw"), (2, 4)))
        assert store.names() == ["x"]
        with pytest.raises(MissingError, match="'draw'"):
            store.read("draw")


class TestLabels:
    def test_labels_come_back_and_name_the_dimension(self, path, store):
        labels = ["Größe", "", "b" * 300]
        store.create(named("a/x", ("i",), (3,)))
        store.create_labels("a/i", labels)
        store.create_labels("a/none", [])
        assert store.labels("a/i") == labels
        assert store.labels("a/none") == []
        assert store.labels("a/x") is store.labels("a") is store.labels("b") is None
        assert store.names() == ["a/x"]
        with pytest.raises(ExistsError, match="'a/i'"):
            store.create_labels("a/i", labels)
        with pytest.raises(FormatError, match="NUL"):
            store.create_labels("a/j", ["x\0y"])
        store.close()
        with opened(path) as again:
            assert again.labels("a/i") == labels
            assert again.names() == ["a/x"]
        pytest.importorskip("h5netcdf")
        xarray = pytest.importorskip("xarray")
        with xarray.open_dataset(path, engine="h5netcdf", group="a") as dataset:
            assert dataset["x"].i.values.tolist() == labels
