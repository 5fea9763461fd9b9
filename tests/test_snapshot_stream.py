"""Storages that stream into a store: chunks, layout, lazy handles, errors of the disk."""

import errno
import threading
import time

import numpy as np
import pytest
from storing import ALL, STREAMING, assert_holds, feed, make, snapshot

from jaxstore.saving.storage_reader import open_storage
from jaxstore.stores.location import open_store


@pytest.fixture(params=STREAMING)
def streaming(request):
    return request.param


class TestStreaming:
    def test_a_chunk_goes_to_disk_as_soon_as_it_is_full(self, streaming, tmp_path):
        with make(streaming, tmp_path) as storage:
            feed(storage, range(4))
            assert storage.kept == []
            feed(storage, range(4, 7))
            assert len(storage.kept) == 3

    @pytest.mark.parametrize("n", [1, 3, 4, 9])
    def test_a_chunk_is_always_chunk_size_snapshots(self, streaming, tmp_path, n):
        storage = make(streaming, tmp_path)
        feed(storage, [0])
        storage.save()  # a short first flush
        feed(storage, range(1, n))
        storage.close()
        store = open_store(tmp_path / ALL[streaming][1])
        assert store.spec("data").chunks == (4, 2, 3)
        assert store.spec("time").chunks == (4,)
        assert store.spec("data").shape == (n, 2, 3)
        store.close()

    def test_only_whole_chunks_are_appended_while_running(self, streaming, tmp_path):
        with make(streaming, tmp_path) as storage:
            feed(storage, range(7))
            assert_holds(storage.values, range(7))
            if streaming == "zarr":  # a file being written is locked
                stored = open_storage(tmp_path / "paths.zarr")
                assert not stored.is_complete
                assert_holds(stored.values, range(4))

    def test_large_snapshots_are_split_and_come_back(self, streaming, tmp_path):
        kind = {"shape": (2, 1_500_000), "dtype": "float32"}
        with make(streaming, tmp_path, chunk_size=2, compression=None) as storage:
            feed(storage, range(3), **kind)
        stored = open_storage(tmp_path / ALL[streaming][1])
        assert_holds(stored.values, range(3), **kind)
        stored.close()

    def test_handles_read_what_is_indexed(self, streaming, tmp_path):
        storage = make(streaming, tmp_path)
        feed(storage, range(10))
        wanted = np.stack([snapshot(i) for i in range(10)], axis=-1)
        for _ in range(2):
            data = storage.values[1]
            for index in (
                *(0, -1, ..., (0, 1, 2), (..., -1), (slice(None), 1, slice(2, 9, 3))),
                *((..., slice(None, None, -1)), (..., [0, 9, 3]), (0, [0, 2], slice(3))),
                (..., slice(20, 30)),
            ):
                np.testing.assert_array_equal(data[index], wanted[index])
            assert (data.ndim, data.size, len(data), data.nbytes) == (3, 60, 2, 480)
            assert [row.shape for row in data] == [(3, 10), (3, 10)]
            assert "(2, 3, 10) float64" in repr(data)
            assert np.mean(data) == wanted.mean()
            assert np.asarray(data, "float32").dtype == np.float32
            with pytest.raises(IndexError, match="out of range"):
                data[2]
            with pytest.raises(ValueError, match="without a copy"):
                np.asarray(data, copy=False)
            storage.close()

    def test_errors_of_the_disk_arrive_as_themselves(self, streaming, tmp_path, monkeypatch):
        storage = make(streaming, tmp_path)
        feed(storage, range(4))
        assert_holds(storage.values, range(4))
        full = OSError(errno.ENOSPC, "No space left on device")

        def write(*_):
            raise full

        monkeypatch.setattr(storage._stream._store, "write", write)

        def loop():
            for i in range(4, 200):
                feed(storage, [i])
                time.sleep(0.01)

        with pytest.raises(OSError, match="No space") as caught:
            loop()
        assert caught.value is full
        for action in (storage.save, lambda: storage.values, lambda: feed(storage, [1])):
            with pytest.raises(OSError, match="No space"):
                action()
        with pytest.raises(OSError, match="No space"):
            storage.close()
        storage.close()
        assert_holds(open_storage(tmp_path / ALL[streaming][1]).values, range(4))

    def test_a_failing_close_is_noted_on_the_error_of_the_block(
        self, streaming, tmp_path, monkeypatch
    ):
        def block():
            with make(streaming, tmp_path) as storage:
                feed(storage, range(2))
                monkeypatch.setattr(storage._stream._store, "write", lambda *_: 1 / 0)
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine") as caught:
            block()
        assert "ZeroDivisionError" in caught.value.__notes__[0]

    def test_a_full_queue_holds_the_loop_up(self, streaming, tmp_path, monkeypatch):
        storage = make(streaming, tmp_path, chunk_size=1, queue_bytes=1)
        write, gate, n_begun = storage._stream._store.write, threading.Event(), []

        def slow(*args):
            n_begun.append(1)
            gate.wait(10)
            write(*args)

        monkeypatch.setattr(storage._stream._store, "write", slow)
        loop = threading.Thread(target=feed, args=(storage, range(20)))
        loop.start()
        loop.join(0.2)
        assert loop.is_alive()
        assert len(n_begun) == 1
        gate.set()
        loop.join(10)
        storage.close()
        assert_holds(storage.values, range(20))

    def test_save_leaves_no_thread_behind(self, streaming, tmp_path):
        before = threading.active_count()
        storage = make(streaming, tmp_path)
        feed(storage, range(9))
        storage.save()
        assert threading.active_count() == before
        storage.close()

    def test_xarray_opens_it_as_it_stands(self, streaming, tmp_path):
        xarray = pytest.importorskip("xarray")
        engine = {"zarr": "zarr", "hdf5": "h5netcdf"}[streaming]
        pytest.importorskip(engine)
        storage = make(streaming, tmp_path)
        feed(storage, range(6))
        storage.save()
        with xarray.open_dataset(tmp_path / ALL[streaming][1], engine=engine) as found:
            assert found["data"].dims == ("snapshot", "data_dim_0", "data_dim_1")
            assert found["data"].coords["time"].dims == ("snapshot",)
            assert found["data"].shape == (6, 2, 3)
            np.testing.assert_array_equal(found["data"][5], snapshot(5))
        storage.close()
