"""What HDF5Store promises beyond the contract of every store."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from jaxstore.errors import (  # noqa: E402
    BusyError,
    ExistsError,
    FormatError,
    MismatchError,
    MissingError,
)
from jaxstore.stores.base import ArraySpec  # noqa: E402
from jaxstore.stores.hdf5 import HDF5Store  # noqa: E402

from contracts import StoreContract, numbers, ramp, spec  # noqa: E402  # isort: skip

COMPRESSIONS = [None, "zstd", "lz4"]


def named(name, dims, shape, dtype="float32"):
    return ArraySpec(name, shape, tuple(max(n, 1) for n in shape), np.dtype(dtype), dims)


def in_other_process(code, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("compression", COMPRESSIONS)
class TestFile(StoreContract):
    @pytest.fixture
    def store(self, tmp_path, compression):
        store = HDF5Store.new(tmp_path / "a.h5", compression=compression)
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, store):
        opened = []

        def again():
            store.close()
            opened.append(HDF5Store.open(store.location))
            return opened[-1]

        yield again
        for other in opened:
            other.close()


@pytest.mark.parametrize("compression", COMPRESSIONS)
class TestAdoptedGroup(StoreContract):
    @pytest.fixture
    def file(self):
        with tempfile.TemporaryFile() as bare, h5py.File(bare, "w") as file:
            yield file

    @pytest.fixture
    def store(self, file, compression):
        return HDF5Store.adopt(file.create_group("deep/inside"), compression=compression)

    @pytest.fixture
    def reopen(self, store, file):
        def again():
            store.close()
            return HDF5Store.adopt(file["deep/inside"])

        return again


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.fixture
def store(path):
    store = HDF5Store.new(path)
    yield store
    store.close()


class TestOpening:
    def test_directories_above_are_made(self, tmp_path):
        HDF5Store.new(tmp_path / "b" / "c" / "a.h5").close()
        assert (tmp_path / "b" / "c" / "a.h5").is_file()

    @pytest.mark.parametrize("held", [True, False])
    def test_what_is_there_is_not_touched(self, path, held):
        first = HDF5Store.new(path)
        first.create(spec("x", (2, 4), (2, 4)))
        first.write("x", (0, 0), ramp((2, 4)))
        first.commit({"n": 4})
        if not held:
            first.close()
        before = path.read_bytes()
        with pytest.raises(ExistsError, match=r"a\.h5 is already there.*another path"):
            HDF5Store.new(path)
        assert path.read_bytes() == before
        first.close()

    def test_a_record_without_its_file_is_not_taken_over(self, path):
        record = Path(f"{path}.commit.json")
        record.write_text("{}")
        with pytest.raises(ExistsError, match="commit"):
            HDF5Store.new(path)
        assert not path.exists()

    def test_an_unknown_compression_makes_no_file(self, path):
        with pytest.raises(FormatError, match="'gzip' is not one of"):
            HDF5Store.new(path, compression="gzip")
        assert not path.exists()

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_nothing_there_is_missing(self, path, mode):
        with pytest.raises(MissingError, match=r"no file .*a\.h5"):
            HDF5Store.open(path, mode=mode)

    @pytest.mark.parametrize(
        ("content", "what"), [(b"PK\x03\x04 and more", "begins with b'PK"), (b"", "is empty")]
    )
    def test_another_format_says_what_it_is(self, path, content, what):
        path.write_bytes(content)
        with pytest.raises(FormatError, match=what):
            HDF5Store.open(path)
        assert path.read_bytes() == content

    def test_a_zarr_directory_says_what_it_is(self, path):
        path.mkdir()
        (path / "zarr.json").write_text("{}")
        with pytest.raises(FormatError, match="Zarr"):
            HDF5Store.open(path)

    def test_a_file_cut_short_is_damaged(self, path, store):
        store.create(spec("x", (2, 400), (2, 400)))
        store.close()
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(FormatError, match="damaged or cut short"):
            HDF5Store.open(path)

    def test_a_store_opened_for_reading_refuses_to_write(self, path, store):
        store.close()
        with opened(path) as reader, pytest.raises(BusyError, match=r"mode='r\+'"):
            reader.set_attrs({"a": 1})

    def test_a_closed_store_says_so(self, store):
        store.close()
        with pytest.raises(BusyError, match="is closed"):
            store.names()

    def test_a_user_keeps_the_handle(self, path):
        with h5py.File(path, "w") as file:
            adopted = HDF5Store.adopt(file)
            adopted.create(spec("x", (2,), (2,)))
            adopted.seal()
            adopted.close()
            assert file["x"].shape == (2,)

    def test_a_user_may_close_the_handle_first(self, path):
        with h5py.File(path, "w") as file:
            adopted = HDF5Store.adopt(file)
        adopted.close()


OPEN = """
import sys
from jaxstore.stores.hdf5 import HDF5Store
try:
    store = HDF5Store.open(sys.argv[1], mode=sys.argv[2])
    print(store.names())
except Exception as error:
    print(type(error).__name__, error)
"""


class opened:
    def __init__(self, path, **keywords):
        self.store = HDF5Store.open(path, **keywords)

    def __enter__(self):
        return self.store

    def __exit__(self, *_):
        self.store.close()


class TestLocks:
    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_a_writer_locks_out_other_processes(self, path, store, mode):
        found = in_other_process(OPEN, path, mode).stdout
        assert found.startswith("BusyError")
        assert "Another process has the file open" in found

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_a_sealed_file_is_free(self, path, store, mode):
        store.create(spec("x", (2,), (2,)))
        store.seal()
        assert store.names() == ["x"]  # opens it again, but only for this
        assert in_other_process(OPEN, path, mode).stdout == "['x']\n"

    def test_a_reader_locks_out_no_writer_and_sees_what_it_wrote(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.write("x", (0,), ramp((2,)))
        store.close()
        with opened(path) as reader:
            assert reader.read("x").tolist() == [1, 2]
            code = """
            import sys
            import numpy as np
            from jaxstore.stores.hdf5 import HDF5Store
            store = HDF5Store.open(sys.argv[1], mode="r+")
            store.write("x", (0,), np.array([5, 6, 7], "f4"))
            store.resize("x", (3,))
            store.close()
            """
            assert in_other_process(code, path).returncode == 0
            assert reader.read("x").tolist() == [5, 6, 7]

    def test_a_reader_meets_a_writer_of_another_process(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.close()
        with opened(path) as reader:
            code = """
            import sys
            from jaxstore.stores.hdf5 import HDF5Store
            store = HDF5Store.open(sys.argv[1], mode="r+")
            print("open", flush=True)
            sys.stdin.read()
            """
            with subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as writer:
                assert writer.stdout.readline() == b"open\n"
                with pytest.raises(BusyError, match="open for writing"):
                    reader.read("x")
                writer.stdin.close()
                writer.wait(60)
            assert reader.read("x").shape == (2,)

    def test_readers_and_a_writer_share_a_process(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.seal()
        with opened(path) as reader:
            assert np.isnan(reader.read("x")).all()
            store.write("x", (0,), ramp((2,)))
            assert reader.read("x").tolist() == [1, 2]
            store.write("x", (0,), -ramp((2,)))
            store.seal()
            assert in_other_process(OPEN, path, "r+").stdout == "['x']\n"
            assert reader.read("x").tolist() == [-1, -2]

    def test_threads_may_read_while_the_store_is_sealed_and_written(self, path, store):
        store.create(spec("x", (64,), (8,)))
        store.write("x", (0,), ramp((64,)))
        errors = []

        def read():
            try:
                for _ in range(100):
                    assert store.read("x").tolist() == ramp((64,)).tolist()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            store.write("x", (0,), ramp((64,)))
            store.seal()
        for thread in threads:
            thread.join()
        assert errors == []


class TestChunks:
    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("dtype", ["uint8", "bool", "float16", "float32", "complex128"])
    def test_h5py_reads_what_was_written(self, path, compression, dtype):
        values = numbers((5, 33), dtype)
        with made(path, compression=compression) as store:
            store.create(spec("x", (5, 33), (2, 8), dtype))
            store.write("x", (0, 0), values)
        with h5py.File(path) as file:
            assert file["x"].dtype == dtype
            assert file["x"].maxshape == (None, None)
            assert file["x"][:].tobytes() == values.tobytes()

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    def test_chunks_are_the_bytes_that_hdf5_would_write(self, path, compression):
        # So that any decoder of the filters, and not HDF5 alone, takes them.
        values = np.cumsum(numbers((64, 8), "int32") % 7, axis=0).astype("float32")
        with made(path, compression=compression) as store:
            store.create(spec("ours", (64, 8), (64, 8)))
            store.create(spec("theirs", (64, 8), (64, 8)))
            store.write("ours", (0, 0), values)
        with h5py.File(path, "r+") as file:
            file["theirs"][:] = values
        with h5py.File(path) as file:
            ours, theirs = (file[k].id.get_chunk_info(0).size for k in ("ours", "theirs"))
        # The checksum of a zstd frame is the one thing that HDF5's filter leaves out.
        assert ours - theirs == (4 if compression == "zstd" else 0)

    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("is_partial", [True, False])
    def test_any_flipped_bit_raises_and_names_array_and_chunk(
        self, path, compression, is_partial
    ) -> None:
        values = np.random.default_rng(0).normal(size=(2, 512)).astype("float32")
        with made(path, compression=compression) as store:
            store.create(spec("a/x", (2, 1024), (2, 512)))
            store.write("a/x", (0, 512), values[:, :300] if is_partial else values)
        with h5py.File(path) as file:
            chunk = file["a/x"].id.get_chunk_info(0)
        data = bytearray(path.read_bytes())
        for place in np.random.default_rng(1).integers(0, 8 * chunk.size, 40):
            byte, bit = divmod(int(place), 8)
            flipped = bytearray(data)
            flipped[chunk.byte_offset + byte] ^= 1 << bit
            path.write_bytes(flipped)
            with opened(path) as store:
                with pytest.raises(OSError, match=r"'a/x' in .*a\.h5, chunk \(0, 1\)"):
                    store.read("a/x")
                store.read("a/x", (slice(None), slice(0, 512)))

    def test_filters_of_other_writers_are_written_through_hdf5(self, path):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", (8,), "f4", chunks=(4,), compression="gzip", maxshape=(None,))
            file.create_dataset("whole", (8,), "f4")
        with opened(path, mode="r+") as store:
            store.write("x", (0,), ramp((8,)))
            store.write("whole", (2,), ramp((3,)))
        with opened(path) as store:
            assert store.spec("x").dims == ("dim_0",)
            assert store.spec("whole").chunks == (8,)
            assert store.read("x").tolist() == ramp((8,)).tolist()
            assert store.read("whole").tolist() == [0, 0, 1, 2, 3, 0, 0, 0]

    def test_a_missing_filter_is_an_error_that_names_the_array(self, path):
        with h5py.File(path, "w") as file:
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((4,))
            properties.set_filter(301, h5py.h5z.FLAG_OPTIONAL)  # not a registered filter
            space = h5py.h5s.create_simple((4,))
            made = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)
            made.write_direct_chunk((0,), b"0" * 16)
        with opened(path) as store, pytest.raises(OSError, match=r"'x' .*filter"):
            store.read("x")

    def test_values_of_another_rank_are_refused_and_the_store_lives(self, store):
        store.create(spec("x", (2, 4), (2, 4)))
        with pytest.raises(MismatchError, match="2 axes"):
            store.write("x", (0,), ramp((2,)))
        with pytest.raises(MismatchError, match="cannot become"):
            store.resize("x", (3,))
        store.write("x", (0, 0), ramp((2, 4)))

    def test_whole_chunks_are_not_read_back(self, path, store, monkeypatch):
        store.create(spec("x", (10, 4), (4, 4)))
        reads = []
        plain = h5py.Dataset.__getitem__
        monkeypatch.setattr(
            h5py.Dataset, "__getitem__", lambda *a, **k: reads.append(a) or plain(*a, **k)
        )
        store.write("x", (0, 0), ramp((10, 4)))  # the short last chunk is whole, too
        assert reads == []
        store.write("x", (1, 0), ramp((1, 4)))
        assert len(reads) == 1

    def test_what_was_never_published_is_cut_by_seal(self, path, store):
        store.create(spec("x", (2, 0), (2, 4)))
        store.write("x", (0, 0), ramp((2, 12)))
        store.resize("x", (2, 6))
        store.seal()
        with h5py.File(path) as file:
            assert file["x"].shape == (2, 6)


class made(opened):
    def __init__(self, path, **keywords):
        self.store = HDF5Store.new(path, **keywords)


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


class TestReader:
    def test_a_reader_outlives_its_writer(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.write("x", (0,), ramp((2,)))
        reader = store.reader()
        assert reader.read("x").tolist() == [1, 2]
        store.write("x", (0,), -ramp((2,)))
        assert reader.read("x").tolist() == [-1, -2]
        store.close()
        assert reader.read("x").tolist() == [-1, -2]
        reader.close()

    def test_a_reader_of_a_users_file_says_when_that_is_closed(self, path):
        with h5py.File(path, "w") as file:
            store = HDF5Store.adopt(file)
            store.create(spec("x", (2,), (2,)))
            reader = store.reader()
            store.close()
            assert reader.names() == ["x"]
        with pytest.raises(BusyError, match="closed by its user"):
            reader.names()


class TestHostileFiles:
    @pytest.fixture
    def hostile(self, path, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"s" * 16)
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["x"] = ramp((4,))
        with h5py.File(path, "w") as file:
            file["x"] = ramp((4,))
            file["soft"] = h5py.SoftLink("/x")
            file["away"] = h5py.ExternalLink("other.h5", "x")
            file["group"] = h5py.ExternalLink("other.h5", "/")
            file.create_dataset("raw", (4,), "f4", external=[(str(secret), 0, 16)])
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4,))
            file.create_virtual_dataset("virtual", layout)
        with opened(path) as store:
            yield store

    @pytest.mark.parametrize("name", ["soft", "away", "group/x", "raw", "virtual"])
    def test_data_outside_the_file_are_refused(self, hostile, name):
        with pytest.raises(FormatError, match=re.escape(repr(name))):
            hostile.read(name)
        with pytest.raises(FormatError, match=re.escape(repr(name))):
            hostile.spec(name)

    def test_links_are_not_listed(self, hostile):
        assert hostile.names() == ["raw", "virtual", "x"]
        assert hostile.read("x").tolist() == [1, 2, 3, 4]


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


class TestAttributes:
    @pytest.mark.parametrize(
        "value",
        ["json:", "json:[1]", "a\0b", "\ud800", 2**63, -(2**63), 2**200, [], {}, None, 1.5, False],
    )
    def test_any_json_value_comes_back(self, path, store, value):
        store.set_attrs({"key": value})
        store.close()
        with opened(path) as again:
            found = again.attrs()["key"]
        assert found == value
        assert type(found) is type(value)

    def test_plain_values_are_plain_to_others(self, path, store):
        store.set_attrs({"s": "Größe", "i": 3, "f": 0.5, "b": True, "l": [1]})
        store.close()
        with h5py.File(path) as file:
            found = dict(file.attrs)
        assert found == {"s": "Größe", "i": 3, "f": 0.5, "b": True, "l": "json:[1]"}

    def test_foreign_arrays_are_lists(self, path):
        with h5py.File(path, "w") as file:
            file.attrs["a"] = np.arange(3)
            file.attrs["e"] = h5py.Empty("f")
        with opened(path) as store:
            assert store.attrs() == {"a": [0, 1, 2], "e": None}

    def test_a_large_value_comes_back(self, store):
        large = {str(i): [i] * 10 for i in range(30_000)}
        store.set_attrs({"large": large}, "a")
        assert store.attrs("a") == {"large": large}

    def test_keys_of_the_format_are_refused_and_the_store_lives(self, store):
        with pytest.raises(FormatError, match="REFERENCE_LIST"):
            store.set_attrs({"REFERENCE_LIST": 1})
        store.set_attrs({"fine": 1})


class TestCommit:
    def test_the_record_is_beside_the_file_until_it_is_sealed(self, path, store):
        beside = Path(f"{path}.commit.json")
        store.commit({"n": 1})
        assert json.loads(beside.read_text()) == {"n": 1}
        store.seal()
        assert [p.name for p in path.parent.iterdir()] == ["a.h5"]
        with h5py.File(path) as file:
            assert json.loads(file.attrs["jaxstore_commit"]) == {"n": 1}
        assert store.committed() == {"n": 1}
        store.commit({"n": 2})
        assert store.committed() == {"n": 2}
        store.seal()
        assert store.committed() == {"n": 2}

    def test_a_record_that_cannot_be_written_leaves_the_one_before(self, path, store, monkeypatch):
        store.commit({"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
            with pytest.raises(OSError, match="no"):
                store.commit({"n": 2})
        assert store.committed() == {"n": 1}
        assert sorted(p.name for p in path.parent.iterdir()) == ["a.h5", "a.h5.commit.json"]
        store.commit({"n": 3})

    def test_a_damaged_record_says_so(self, path, store):
        store.commit({"n": 1})
        Path(f"{path}.commit.json").write_text('{"n"')
        with pytest.raises(FormatError, match="damaged"):
            store.committed()

    def test_after_a_kill_the_committed_rows_are_there(self, path):
        code = """
        import os, signal, sys
        import numpy as np
        from jaxstore.stores.base import ArraySpec
        from jaxstore.stores.hdf5 import HDF5Store
        store = HDF5Store.new(sys.argv[1])
        store.create(ArraySpec("x", (0, 100), (16, 100), np.dtype("f4"), ("draw", "i")))
        for n in range(0, 160, 16):
            store.write("x", (n, 0), np.full((16, 100), n, "f4"))
            store.resize("x", (n + 16, 100))
            store.commit({"n": n + 16})
        store.write("x", (160, 0), np.ones((16, 100), "f4"))
        os.kill(os.getpid(), signal.SIGKILL)
        """
        assert in_other_process(code, path).returncode == -9
        with opened(path, mode="r+") as store:
            n = store.committed()["n"]
            assert n == 160
            store.resize("x", (n, 100))
            found = store.read("x")[:, 0]
        assert found.tolist() == np.repeat(np.arange(0, 160, 16), 16).tolist()


FILL_DISK = """
import errno, sys
import numpy as np
from jaxstore.errors import BusyError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5 import HDF5Store
rows, compression, action = int(sys.argv[2]), sys.argv[3], sys.argv[4]
store = HDF5Store.new(sys.argv[1], compression=None if compression == "None" else compression)
for name in "abc":
    store.create(ArraySpec(name, (0, 1000), (rows, 1000), np.dtype("f4"), ("draw", "i")))
values = np.random.default_rng(0).normal(size=(rows, 1000)).astype("f4")
n, step = 0, "write"
try:
    while True:
        step = "write"
        for name in "abc":
            store.write(name, (n, 0), values)
            store.resize(name, (n + rows, 1000))
        step = "commit"
        store.commit({"n": n + rows})
        n += rows
except OSError as error:
    assert error.errno == errno.ENOSPC, error
for call in (store.names, store.seal, lambda: store.read("a"), lambda: store.commit({})):
    try:
        call()
    except BusyError as error:
        assert "earlier write failed" in str(error) and "space" in str(error), error
    else:
        assert step == "commit", call  # the record did not fit, the file is sound
        break
if action == "close":
    store.close()
    store.close()
print(n)
"""


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting is not permitted here")
        yield disk
        subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.parametrize("rows", [1, 16, 64])
    @pytest.mark.parametrize("compression", [None, "zstd"])
    @pytest.mark.parametrize("action", ["close", "leave"])
    def test_a_full_disk_is_enospc_and_the_committed_rows_are_there(
        self, disk, rows, compression, action
    ):
        done = in_other_process(FILL_DISK, disk / "a.h5", rows, compression, action)
        assert done.returncode == 0, done.stderr
        n = int(done.stdout)
        assert n > 200
        with opened(disk / "a.h5") as store:
            assert store.committed()["n"] == n
            for name in "abc":
                found = store.read(name, (slice(0, n),))
                assert found.shape == (n, 1000)
                assert not np.isnan(found).any()

    def test_an_error_of_hdf5_ends_the_handle(self, path, monkeypatch):
        store = HDF5Store.new(path)
        store.create(spec("x", (2, 4), (2, 4)))
        store.commit({"n": 0})

        def fail(*_):
            raise RuntimeError("Unable to flush (errno = 28, error message = 'No space left')")

        with monkeypatch.context() as patch:
            patch.setattr(h5py.File, "flush", fail)
            with pytest.raises(OSError, match="No space left") as caught:
                store.commit({"n": 1})
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(BusyError, match=r"No space left.*open it again"):
            store.write("x", (0, 0), ramp((2, 4)))
        store.close()
        with opened(path, mode="r+") as again:
            assert again.committed() == {"n": 0}
            assert again.names() == ["x"]

    def test_an_error_ends_an_adopted_handle_and_leaves_the_file(self, path, monkeypatch):
        with h5py.File(path, "w") as file:
            store = HDF5Store.adopt(file)

            def fail(*_):
                raise RuntimeError("broken")

            with monkeypatch.context() as patch:
                patch.setattr(h5py.File, "flush", fail)
                with pytest.raises(RuntimeError, match="broken"):
                    store.commit({"n": 1})
            with pytest.raises(BusyError, match="broken"):
                store.names()
            store.close()
            file["mine"] = 1
