from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import h5py
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import obstore
import pytest
import zarr

import jaxstore as js
from jaxstore.errors import FormatError
from jaxstore.sources.geometry import ArrayGeometry
from jaxstore.sources.opening import open_arrays
from jaxstore.sources.stamp import content, stamp
from jaxstore.stores.memory import MemoryStore

VALUES = np.arange(60, dtype="f4").reshape(10, 6)


def only(where, **options):
    (source,) = open_arrays(where, **options).values()
    return source


def stamp_of(where, **options):
    source = only(where, **options)
    try:
        return stamp(source)
    finally:
        source.close()


def zarr_array(where, *, version=3, chunks=(3, 6), values=VALUES, **options):
    group = zarr.open_group(where, mode="a", zarr_format=version)
    array = group.create_array(
        "x", shape=values.shape, chunks=chunks, dtype=values.dtype, **options
    )
    array[...] = values
    return array


def hdf5_file(path, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("g/x", data=VALUES, **options)
        file.create_dataset("g/y", data=VALUES)
    return f"{path}:/g/x"


def same_again(path):
    """The file written again as it is, at another time."""
    data = path.read_bytes()
    path.write_bytes(data)


class TestZarr:
    @pytest.fixture(params=[2, 3])
    def array(self, request, tmp_path):
        return zarr_array(tmp_path / "a.zarr", version=request.param)

    @pytest.fixture
    def place(self, array, tmp_path):
        return f"{tmp_path / 'a.zarr'}:/x"

    def test_it_stays_while_nothing_is_written(self, place, array):
        before = stamp_of(place)
        assert before == stamp_of(place) == stamp_of(array) is not None
        array.attrs["unit"] = "V"
        assert before == stamp_of(place) == stamp_of(array)

    def test_results_beside_the_array_do_not_change_it(self, place):
        before = stamp_of(place)
        group = zarr.open_group(place.partition(":/")[0])
        group.create_group("x-peak_000").create_array("y", data=VALUES)
        assert stamp_of(place) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda array: array.__setitem__((0, 0), 77),
            lambda array: array.__setitem__((9, 5), array[9, 5]),  # the same value, written again
            lambda array: array.append(VALUES[:1]),
            lambda array: array.resize((10, 5)),
            lambda array: array.__setitem__(slice(0, 3), 0),  # its chunk goes away
        ],
    )
    def test_it_changes_with_each_write_whatever_was_written(self, place, array, change):
        before = stamp_of(place)
        change(array)
        assert stamp_of(place) not in (None, before)

    def test_a_chunk_changed_right_after_in_place_and_of_the_same_size_is_seen(self, place):
        folder = place.partition(":/")[0] + "/x"
        paths = [Path(f) / name for f, _, names in os.walk(folder) for name in names]
        chunk = next(path for path in paths if path.name[0].isdigit())
        data = chunk.read_bytes()
        for _ in range(20):
            before = stamp_of(place)
            with chunk.open("r+b") as file:
                file.write(data)
            assert stamp_of(place) != before


def test_another_fill_value_or_codec_is_another_stamp(tmp_path):
    found = set()
    for i, options in enumerate([{}, {"fill_value": 7}, {"compressors": None}]):
        array = zarr.create_array(
            str(tmp_path / f"{i}.zarr"), shape=(4,), chunks=(2,), dtype="f4", **options
        )
        found.add(stamp_of(array))
    assert len(found) == 3


def test_objects_of_an_object_store_are_known_by_their_tags():
    store = obstore.store.MemoryStore()
    array = zarr_array(zarr.storage.ObjectStore(store))
    before = stamp_of(array)
    assert stamp_of(array) == before is not None
    array[0, 0] = array[0, 0]
    assert stamp_of(array) != before


def test_objects_on_a_server_are_known_by_their_tags(s3_bucket):
    url = f"s3://{s3_bucket}/a.zarr"
    store = js.store_from_url(url, read_only=False)
    array = zarr_array(store)
    before = stamp_of(f"{url}:/x")
    assert stamp_of(f"{url}:/x") == before is not None
    array[0, 0] = 77
    assert stamp_of(f"{url}:/x") not in (None, before)


def test_other_zarr_stores_have_none(tmp_path):
    assert stamp_of(zarr_array(zarr.storage.MemoryStore())) is None
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr_array(store)
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        assert stamp_of(zarr.open_array(store, path="x")) is None


def test_a_snapshot_of_icechunk_is_its_stamp():
    icechunk = pytest.importorskip("icechunk")
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    found = []
    for value in (1, 1):
        session = repo.writable_session("main")
        group = zarr.open_group(session.store, mode="a")
        group.require_array("x", shape=(4,), chunks=(2,), dtype="f4")[...] = value
        assert stamp_of(group["x"]) is None
        session.commit("more")
        read = repo.readonly_session("main")
        found += [stamp_of(zarr.open_group(read.store, mode="r")["x"]) for _ in range(2)]
    assert None not in found
    assert found[0] == found[1] != found[2] == found[3]


class TestHDF5:
    @pytest.fixture(
        params=[{}, {"chunks": (3, 6)}, {"chunks": (3, 6), "scaleoffset": 2}],
        ids=["contiguous", "chunked", "sliced"],
    )
    def place(self, request, tmp_path):
        return hdf5_file(tmp_path / "a.h5", **request.param)

    def test_it_stays_while_nothing_is_written_however_it_was_opened(self, place, tmp_path):
        before = stamp_of(place)
        assert stamp_of(place) == before is not None
        with h5py.File(tmp_path / "a.h5") as file:
            assert stamp_of(file["g/x"]) == before
        (tmp_path / "b.h5").symlink_to(tmp_path / "a.h5")
        assert stamp_of(f"{tmp_path / 'b.h5'}:/g/x") == before

    def test_it_changes_with_each_write(self, place, tmp_path):
        before = stamp_of(place)
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file["g/x"][0, 0] = 77
        after = stamp_of(place)
        same_again(tmp_path / "a.h5")
        assert len({before, after, stamp_of(place)}) == 3

    def test_a_file_that_is_open_to_write_has_none(self, place, tmp_path):
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            assert stamp_of(file["g/x"]) is None

    def test_arrays_and_files_have_their_own(self, place, tmp_path):
        before = stamp_of(place)
        assert stamp_of(f"{tmp_path / 'a.h5'}:/g/y") != before
        shutil.copy2(tmp_path / "a.h5", tmp_path / "copy.h5")
        assert stamp_of(f"{tmp_path / 'copy.h5'}:/g/x") != before


def test_results_that_jaxstore_puts_beside_an_array_do_not_change_it(tmp_path):
    pytest.importorskip("jaxstore.stores.results_hdf5")
    from jaxstore.stores.base import ArraySpec
    from jaxstore.stores.results_place import results_at

    place = hdf5_file(tmp_path / "a.h5", chunks=(3, 6))
    before = stamp_of(place)
    spec = ArraySpec("y", (4,), (2,), np.dtype("f4"), ("item",))
    group = results_at(tmp_path / "a.h5").create(
        "x-peak_000", manifest={"state": "partial"}, specs=[spec], n_units=2
    )
    group.write("y", (0,), np.ones(2, "f4"))
    group.mark([0], 1)
    group.close()
    assert stamp_of(place) == before
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["g/x"][0, 0] = 77
    assert stamp_of(place) not in (None, before)


def test_files_whose_time_tells_nothing_have_none(tmp_path):
    hdf5_file(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", driver="core") as file:
        assert stamp_of(file["g/x"]) is None
    layout = h5py.VirtualLayout(shape=VALUES.shape, dtype="f4")
    layout[...] = h5py.VirtualSource(tmp_path / "a.h5", "g/x", shape=VALUES.shape)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
        file.create_dataset("y", (4,), "f4", external=[(tmp_path / "y.raw", 0, 16)])
    with h5py.File(tmp_path / "b.h5") as file:
        assert [stamp_of(file[name]) for name in "xy"] == [None, None]


def test_a_tick_of_the_clock_of_files_passes_before_anything_can_be_changed(tmp_path):
    zarr_array(tmp_path / "a.zarr")
    for place in (f"{tmp_path / 'a.zarr'}:/x", hdf5_file(tmp_path / "a.h5")):
        source = only(place)
        began = time.monotonic()
        assert stamp(source)
        assert time.monotonic() - began > 0.01


def test_an_array_in_memory_is_known_by_its_values():
    values = VALUES.copy()
    before = stamp_of(values)
    assert stamp_of(VALUES) == stamp_of(jnp.asarray(VALUES)) == before
    values[3, 2] = 0
    assert stamp_of(values) != before


class TestRun:
    def write(self, where, n=20, **options):
        def step(x, _):
            return x + 1.0, {"x": x}

        js.scan(step, jnp.float32(0), None, length=n, collector=js.ZarrCollector(where), **options)

    def test_a_run_is_known_while_it_stays(self, tmp_path):
        self.write(tmp_path / "a.zarr")
        before = stamp_of(tmp_path / "a.zarr")
        assert stamp_of(tmp_path / "a.zarr") == before is not None
        shutil.rmtree(tmp_path / "a.zarr")
        self.write(tmp_path / "a.zarr")
        assert stamp_of(tmp_path / "a.zarr") != before

    def test_draws_of_a_store_are_known_by_their_commit(self, tmp_path):
        self.write(tmp_path / "a.zarr", chains=None)
        with js.open_run(tmp_path / "a.zarr") as run:
            leaf = run.leaves[0]
            before = stamp_of(leaf)
            assert stamp_of(leaf) == before is not None

    def test_chains_count(self, tmp_path):
        def step(x, _):
            return x + 1.0, {"x": x}

        collector = js.ZarrCollector(tmp_path / "a.zarr")
        js.scan(step, jnp.arange(3.0), None, length=20, collector=collector, chains=3)
        with js.open_run(tmp_path / "a.zarr") as run:
            found = [stamp_of(run.leaves[0].of_chain(chain)) for chain in (1, 2)]
        assert None not in found
        assert len(set(found)) == len(found) == 2


class TestContent:
    def test_copies_are_equal_whatever_their_format_and_chunks(self, tmp_path):
        places = [
            VALUES,
            jnp.asarray(VALUES),
            zarr_array(tmp_path / "a.zarr"),
            zarr_array(tmp_path / "b.zarr", chunks=(4, 5), version=2),
            zarr_array(tmp_path / "c.zarr", chunks=(2, 3), shards=(4, 6)),
            zarr_array(tmp_path / "d.zarr", values=VALUES.astype(">f4")),
            hdf5_file(tmp_path / "a.h5"),
            hdf5_file(tmp_path / "b.h5", chunks=(7, 2), compression="gzip"),
            hdf5_file(tmp_path / "c.h5", dtype=">f4"),
        ]
        assert len({content(only(place)) for place in places}) == 1

    @pytest.mark.parametrize(
        "other",
        [VALUES.reshape(6, 10), VALUES.astype("f8"), VALUES.view("i4"), VALUES[:9], VALUES[::-1],
         np.where(VALUES == 33, 34, VALUES), np.where(VALUES == 0, -0.0, VALUES).astype("f4"),
         VALUES[None], VALUES.reshape(10, 2, 3)],
    )  # fmt: skip
    def test_other_values_are_not(self, other):
        assert content(only(other)) != content(only(VALUES))

    def test_the_axis_of_the_items_counts(self):
        square = VALUES[:6]
        assert content(only(square, axis=1)) == content(only(square.T.copy()))
        assert content(only(square, axis=1)) != content(only(square))

    def test_dtypes_that_numpy_has_not(self):
        values = VALUES.astype(ml_dtypes.bfloat16)
        assert content(only(values)) != content(only(values.view("u2")))

    def test_an_array_without_rows(self):
        assert content(only(np.zeros((0, 3)))) != content(only(np.zeros((0, 4))))

    def test_damage_is_told_with_its_chunk(self, tmp_path):
        zarr_array(tmp_path / "a.zarr")
        os.truncate(tmp_path / "a.zarr" / "x" / "c" / "0" / "0", 5)
        with pytest.raises(FormatError, match=r"'x'.*chunk \(0, 0\)"):
            content(only(f"{tmp_path / 'a.zarr'}:/x"))

    def test_one_chunk_is_held_at_a_time(self):
        source = Counting(n_chunks=50)
        assert content(source)
        assert source.most_bytes == 1000 * 8


class Counting:
    """A source of one's own."""

    location = "here"
    is_remote = False

    def __init__(self, n_chunks):
        self.geometry = ArrayGeometry("x", (n_chunks * 1000,), (1000,), np.dtype("f8"))
        self.most_bytes = 0

    def stored_chunks(self, chunk):
        return [(chunk,)]

    def read(self, index, rows):
        self.most_bytes = max(self.most_bytes, rows.nbytes)
        rows[...] = index[0]
        return rows.nbytes

    def close(self):
        pass


def test_a_source_of_ones_own_has_none():
    assert stamp(Counting(n_chunks=1)) is None


def test_a_store_that_holds_no_run_has_none():
    from jaxstore.stores.base import ArraySpec

    store = MemoryStore()
    store.create(ArraySpec("x", (4,), (2,), np.dtype("f4"), ("item",)))
    assert stamp(open_arrays(store)["x"]) is None
