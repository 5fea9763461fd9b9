"""The commit record of an HDF5 file."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import in_other_process, opened

from jaxstore.errors import FormatError
from jaxstore.stores.hdf5 import HDF5Store


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

    def test_a_reader_seals_nothing(self, path, store):
        store.commit({"n": 1})
        reader = store.reader()
        reader.seal()
        reader.close()
        assert Path(f"{path}.commit.json").exists()

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
