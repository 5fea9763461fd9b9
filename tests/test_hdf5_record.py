"""The commit record of an HDF5 file."""

import json
import os
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest
from arrays import spec
from hdf5_files import in_other_process, opened

from jaxstore.errors import FormatError
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.hdf5_record import packed_text

BESIDE = ["a.h5.chunks", "a.h5.commit.json", "a.h5.live.json"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.fixture
def store(path):
    store = HDF5Store.new(path)
    yield store
    store.close()


class TestCommit:
    def test_the_record_is_beside_the_file_until_it_is_sealed(self, path, store):
        beside = Path(f"{path}.commit.json")
        store.commit({"n": 1})
        found = json.loads(beside.read_text())
        assert found["record"] == {"n": 1}
        assert found["writer"]["pid"] == os.getpid()
        store.seal()
        assert [p.name for p in path.parent.iterdir()] == ["a.h5"]
        with h5py.File(path) as file:
            inside = json.loads(file.attrs["jaxstore_commit"])
        assert inside.keys() == {"crc32c", "record"}
        assert inside["record"] == {"n": 1}
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
        assert {p.name for p in path.parent.iterdir()} == {"a.h5", *BESIDE}
        store.commit({"n": 3})

    def test_a_closed_file_keeps_its_record_alone(self, path, store):
        store.commit({"n": 1})
        store.close()
        assert {p.name for p in path.parent.iterdir()} == {"a.h5", "a.h5.commit.json"}
        assert "writer" not in json.loads(Path(f"{path}.commit.json").read_text())
        with opened(path) as reader:
            assert reader.committed() == {"n": 1}

    def test_a_file_that_never_committed_leaves_nothing_beside(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.close()
        assert [p.name for p in path.parent.iterdir()] == ["a.h5"]

    def test_half_written_files_of_killed_writers_are_tidied(self, path, store):
        store.close()
        gone = in_other_process("import os; print(os.getpid())").stdout.strip()
        host = socket.gethostname()
        old = path.with_name(f"a.h5.commit.json.{host}-{gone}-7.partial")
        kept = [
            path.with_name(f"a.h5.commit.json.{host}-{os.getpid()}-7.partial"),
            path.with_name(f"b.h5.commit.json.{host}-{gone}-7.partial"),
            path.with_name(f"a.h5.commit.json.{host}x-{gone}-7.partial"),
        ]
        for partial in (old, *kept):
            partial.touch()
        with opened(path, mode="r+"):
            assert not old.exists()
            assert all(partial.exists() for partial in kept)

    def test_a_reader_seals_nothing(self, path, store):
        store.commit({"n": 1})
        reader = store.reader()
        reader.seal()
        reader.close()
        assert Path(f"{path}.commit.json").exists()

    @pytest.mark.parametrize("text", ['{"n"', "[]", "{}", '{"record": {"n": 1}}', "[" * 100_000])
    def test_a_damaged_record_says_so(self, path, store, text):
        store.commit({"n": 1})
        store.close()
        Path(f"{path}.commit.json").write_text(text)
        with opened(path) as reader:
            if text == "{}":
                assert reader.committed() is None
                return
            with pytest.raises(FormatError, match=r"a\.h5 is damaged"):
                reader.committed()
        with opened(path, mode="r+") as writer, pytest.raises(FormatError, match="damaged"):
            writer.committed()
        assert Path(f"{path}.commit.json").read_text() == text

    def test_every_flipped_bit_of_a_record_is_noticed(self, path, store):
        record = {"draws": [12, 7], "state": "running", "é": None, "x": 0.1}
        store.commit(record)
        store.close()
        beside = Path(f"{path}.commit.json")
        data = beside.read_bytes()
        n_noticed = 0
        with opened(path) as reader:
            for place in range(8 * len(data)):
                flipped = bytearray(data)
                flipped[place // 8] ^= 1 << place % 8
                beside.write_bytes(flipped)
                try:
                    assert reader.committed() == record
                except FormatError:
                    n_noticed += 1
        assert n_noticed > 8 * len(data) - 20  # "\n" for " " and such are the same record

    def test_flipped_bits_of_a_sealed_record_are_noticed(self, path, store):
        store.commit({"draws": [123456]})
        store.seal()
        store.close()
        data = path.read_bytes()
        assert data.count(b"123456") == 1
        path.write_bytes(data.replace(b"123456", b"123457"))
        with opened(path) as reader, pytest.raises(FormatError, match="its checksum differs"):
            reader.committed()

    @pytest.mark.parametrize("body", [{}, {"record": None}, {"record": [1]}])
    def test_what_is_no_record_inside_a_file_is_refused(self, path, store, body):
        store.close()
        with h5py.File(path, "r+") as file:
            file.attrs["jaxstore_commit"] = packed_text(body)
        with opened(path) as reader, pytest.raises(FormatError, match="is damaged: it is"):
            reader.committed()

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
