"""What HDF5Store promises beyond the contract of every store: opening, attributes, readers."""

import re
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import ramp, spec
from contracts import StoreContract
from hdf5_files import COMPRESSIONS, opened

from jaxstore.errors import BusyError, ExistsError, FormatError, MissingError
from jaxstore.stores.hdf5 import HDF5Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.fixture
def store(path):
    store = HDF5Store.new(path)
    yield store
    store.close()


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

    @pytest.mark.parametrize("end", ["commit.json", "checkpoint-0", "tail-12"])
    def test_what_lay_beside_a_file_that_is_gone_is_not_taken_over(self, path, end):
        orphan = Path(f"{path}.{end}")
        orphan.write_text("{}")
        with pytest.raises(ExistsError, match=rf"a\.h5\.{end} is there"):
            HDF5Store.new(path)
        assert not path.exists()
        assert orphan.read_text() == "{}"

    def test_other_files_with_a_longer_name_are_nobodys(self, path):
        for end in ("bak", "my-copy", "old.h5", "chunks"):
            Path(f"{path}.{end}").touch()
        HDF5Store.new(path).close()

    @pytest.mark.parametrize("name", ["a//b", "/a", "a/", "a/../b", "./a", "a/.", "a\0b"])
    def test_names_that_hdf5_would_change_are_refused_and_the_store_lives(self, path, store, name):
        store.create(spec("a/b", (2,), (2,)))
        for call in (
            lambda: store.create(spec(name, (2,), (2,))),
            lambda: store.create_labels(name, ["a"]),
            lambda: store.set_attrs({"a": 1}, name),
            lambda: store.read(name),
        ):
            with pytest.raises(FormatError, match=re.escape(repr(name))):
                call()
        assert store.names() == ["a/b"]

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
        for key in ("", "a\0b"):
            with pytest.raises(FormatError, match="key"):
                store.set_attrs({key: 1})
        store.set_attrs({"fine": 1})
