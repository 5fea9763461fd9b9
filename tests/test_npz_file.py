"""The npz file of a NumpyStorage."""

import numpy as np
import pytest
from storing import assert_holds, feed

from jaxstore.errors import ExistsError
from jaxstore.saving.storage_reader import open_storage
from jaxstore.saving.storages import NumpyStorage


class TestNumpyFile:
    def test_it_is_a_plain_npz_file(self, tmp_path):
        with NumpyStorage(1, tmp_path / "run_0.5") as storage:
            feed(storage, range(3))
        with np.load(tmp_path / "run_0.5.npz") as file:
            assert sorted(file) == ["data", "time"]
            assert (file["time"].shape, file["data"].shape) == ((3,), (2, 3, 3))
        assert [path.name for path in tmp_path.iterdir()] == ["run_0.5.npz"]

    def test_without_a_place_save_says_so_and_close_does_not(self):
        with NumpyStorage(1) as storage:
            with pytest.raises(ValueError, match="no save_directory"):
                storage.save()
            feed(storage, range(3))
        assert_holds(storage.values, range(3))

    def test_a_file_that_someone_made_meanwhile_stays(self, tmp_path):
        storage = NumpyStorage(1, tmp_path / "a.npz")
        feed(storage, range(3))
        (tmp_path / "a.npz").write_bytes(b"mine")
        with pytest.raises(ExistsError, match=r"a\.npz is already there"):
            storage.save()
        assert (tmp_path / "a.npz").read_bytes() == b"mine"
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_failed_save_keeps_the_earlier_file(self, tmp_path, monkeypatch):
        storage = NumpyStorage(1, tmp_path / "a.npz")
        feed(storage, range(3))
        storage.save()
        feed(storage, range(3, 6))
        with monkeypatch.context() as patch:
            patch.setattr(np, "savez_compressed", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                storage.save()
        assert_holds(open_storage(tmp_path / "a.npz").values, range(3))
        storage.close()
        assert_holds(open_storage(tmp_path / "a.npz").values, range(6))
