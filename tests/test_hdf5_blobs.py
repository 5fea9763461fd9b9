"""Bytes beside an HDF5 file, or in a file of the user's, that are no array."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from arrays import ramp, spec
from hdf5_files import in_other_process, made, opened

from jaxstore.errors import ExistsError, MissingError
from jaxstore.stores.hdf5 import HDF5Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


class TestBeside:
    def test_a_blob_is_a_file_of_its_own_and_outlives_the_seal(self, path):
        with made(path) as store:
            store.create(spec("g/x", (2,), (2,)))
            before = path.stat().st_mtime_ns
            store.put_blob("g/x", "checkpoint-0", [b"ab", np.arange(3, dtype="u1")])
            assert Path(f"{path}.checkpoint-0").read_bytes() == b"ab\0\1\2"
            store.commit({"n": 1})
            store.seal()
            assert {p.name for p in path.parent.iterdir()} == {"a.h5", "a.h5.checkpoint-0"}
        assert before
        with opened(path) as reader:
            assert reader.get_blob("g/x", "checkpoint-0") == b"ab\0\1\2"
            assert reader.get_blob("g/x", "checkpoint-1") is None

    def test_a_failed_replacement_leaves_the_blob_before(self, path, monkeypatch):
        with made(path) as store:
            store.create(spec("x", (2,), (2,)))
            store.put_blob("x", "tail-0", [b"old"])
            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no")))
                with pytest.raises(OSError, match="no"):
                    store.put_blob("x", "tail-0", [b"new"])
            assert store.get_blob("x", "tail-0") == b"old"
            store.put_blob("x", "tail-0", [b"newer"])  # the handle is sound
            assert store.get_blob("x", "tail-0") == b"newer"

    def test_a_key_that_is_none_leaves_the_store_alive(self, path):
        with made(path) as store:
            store.create(spec("x", (2,), (2,)))
            with pytest.raises(ValueError, match="no key"):
                store.put_blob("x", "../x", [b""])
            with pytest.raises(MissingError, match="'y'"):
                store.put_blob("y", "tail-0", [b""])
            store.put_blob("x", "tail-0", [b""])
            assert store.get_blob("x", "tail-0") == b""

    def test_another_process_reads_the_blobs_of_a_live_writer(self, path):
        with made(path) as store:
            store.create(spec("x", (2,), (2,)))
            store.put_blob("x", "tail-0", [b"now"])
            store.commit({"n": 1})
            code = """
            import sys
            from jaxstore.stores.hdf5 import HDF5Store
            print(HDF5Store.open(sys.argv[1]).get_blob("x", "tail-0"))
            """
            assert in_other_process(code, path).stdout == "b'now'\n"


class TestInside:
    def test_xarray_opens_the_file_and_h5py_sees_bytes(self, path):
        with h5py.File(path, "w") as file:
            store = HDF5Store.adopt(file)
            store.create(spec("x", (2, 3), (2, 3)))
            store.write("x", (0, 0), ramp((2, 3)))
            for data in (b"a longer one", b"", b"end"):
                store.put_blob("x", "checkpoint-0", [data[:2], data[2:]])
                assert store.get_blob("x", "checkpoint-0") == data
            store.put_blob("x", "checkpoint-1", [bytes(3 << 20)])
            assert store.names() == ["x"]
            with pytest.raises(MissingError, match="checkpoint-0"):
                store.spec("checkpoint-0")
            assert file["checkpoint-0"][...].tobytes() == b"end"
        with xr.open_dataset(path, engine="h5netcdf") as data:
            assert data["x"].dims == ("chain", "draw")
            assert data["checkpoint-0"].sizes == {"checkpoint-0_byte": 3}
        with h5py.File(path) as file:
            again = HDF5Store.adopt(file)
            assert again.get_blob("x", "checkpoint-0") == b"end"
            assert again.get_blob("x", "checkpoint-1") == bytes(3 << 20)

    def test_what_the_user_has_under_the_key_stays(self, path):
        with h5py.File(path, "w") as file:
            file["tail-0"] = ramp((2,))
            store = HDF5Store.adopt(file)
            store.create(spec("x", (2,), (2,)))
            with pytest.raises(ExistsError, match="'tail-0'"):
                store.put_blob("x", "tail-0", [b"mine"])
            assert store.get_blob("x", "tail-0") is None
            assert file["tail-0"][...].tolist() == [1, 2]


class TestDurable:
    @pytest.fixture
    def calls(self, path, monkeypatch):
        """What reached the disk or got its name, in order: ("sync" or "name", what)."""
        found = []
        sync, replace = os.fsync, os.replace

        def name_of(file):
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return path.name  # which had another when HDF5 made it
            return Path(os.readlink(f"/proc/self/fd/{file}")).name

        def fsync(file):
            found.append(("sync", name_of(file)))
            sync(file)

        def rename(old, new):
            found.append(("name", Path(new).name))
            replace(old, new)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", rename)
        return found

    def test_everything_is_on_the_disk_before_the_record_and_then_the_record(self, path, calls):
        folder = path.parent.name
        with made(path, durable=True) as store:
            assert calls[:2] == [("sync", "a.h5"), ("sync", folder)]
            store.create(spec("x", (0, 3), (2, 3)))
            store.write("x", (0, 0), ramp((2, 3)))
            calls.clear()
            store.put_blob("x", "tail-0", [b"abc"])
            assert [kind for kind, _ in calls] == ["sync", "name", "sync"]
            assert calls[0][1].startswith("a.h5.tail-0.")
            assert calls[1:] == [("name", "a.h5.tail-0"), ("sync", folder)]
            calls.clear()
            store.commit({"n": 2})
        told = {"a.h5.live.json", "a.h5.chunks"}  # of no use after a power loss
        done = [call for call in calls if call[1] not in told]
        named = done.index(("name", "a.h5.commit.json"))
        assert done[0] == ("sync", "a.h5")
        assert done[1][0] == "sync"
        assert done[1][1].startswith("a.h5.commit.json.")
        assert named == 2
        assert done[3] == ("sync", folder)

    def test_the_record_inside_is_on_the_disk_before_the_one_beside_is_removed(
        self, path, calls, monkeypatch
    ):
        with made(path, durable=True) as store:
            store.commit({"n": 2})
            unlink = os.unlink
            monkeypatch.setattr(
                Path, "unlink", lambda p, **_: (calls.append(("gone", p.name)), unlink(p))
            )
            calls.clear()
            store.seal()
        assert calls.index(("sync", "a.h5")) < calls.index(("gone", "a.h5.commit.json"))

    def test_new_folders_are_on_the_disk_too(self, path, calls):
        with made(path.parent / "b" / "c" / "a.h5", durable=True):
            pass
        assert ("sync", path.parent.name) in calls
        assert ("sync", "b") in calls
        assert ("sync", "c") in calls

    def test_who_does_not_ask_for_it_does_not_wait_for_the_disk(self, path, calls):
        with made(path) as store:
            store.create(spec("x", (2,), (2,)))
            store.put_blob("x", "tail-0", [b"abc"])
            store.commit({"n": 2})
            store.seal()
        with opened(path) as store:
            store.read("x")
        with opened(path, mode="r+", durable=True) as store:
            assert [call for call in calls if call[0] == "sync"] == []
            store.commit({"n": 3})
        assert ("sync", "a.h5") in calls

    def test_an_adopted_file_is_synced_where_it_can_be(self, path, calls, tmp_path):
        with h5py.File(path, "w") as file:
            store = HDF5Store.adopt(file, durable=True)
            store.create(spec("x", (2,), (2,)))
            store.put_blob("x", "tail-0", [b"abc"])
            assert calls == [("sync", "a.h5")]
            store.commit({"n": 1})
            assert calls == [("sync", "a.h5")] * 3  # data, then the record
        with (
            h5py.File(tmp_path / "b.h5", "w", driver="core") as file,
            pytest.raises(ValueError, match="durable=True needs a plain file"),
        ):
            HDF5Store.adopt(file, durable=True)
