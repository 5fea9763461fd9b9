"""Storages for loops driven from Python: what is kept, when it is on disk, what is refused."""

import errno
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxstore.errors import BusyError, ExistsError, FormatError, MismatchError
from jaxstore.saving.base_storage import BaseStorage
from jaxstore.saving.storage_reader import open_storage
from jaxstore.saving.storages import HDF5Storage, NumpyStorage, ZarrStorage
from jaxstore.stores.location import open_store

STREAMING = {"zarr": (ZarrStorage, "paths.zarr"), "hdf5": (HDF5Storage, "paths.h5")}
ALL = {"npz": (NumpyStorage, "paths.npz"), **STREAMING}


def make(kind, folder, stride=1, chunk_size=4, **options):
    storage, name = ALL[kind]
    sizes = (stride,) if kind == "npz" else (stride, chunk_size)
    return storage(*sizes, folder / name, **options)


def snapshot(i, shape=(2, 3), dtype="float64"):
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) + 100 * i).astype(dtype)


def feed(storage, iterations, **kind):
    for i in iterations:
        storage.store(0.5 * i, snapshot(i, **kind), i)


def assert_holds(values, iterations, **kind):
    time, data = values
    assert time.shape == (len(iterations),)
    assert np.asarray(time).tolist() == [0.5 * i for i in iterations]
    wanted = [snapshot(i, **kind) for i in iterations]
    if wanted:
        assert data.dtype == wanted[0].dtype
        np.testing.assert_array_equal(np.asarray(data), np.stack(wanted, axis=-1))
    assert data.shape[-1] == len(iterations)


@pytest.fixture(params=ALL)
def kind(request):
    return request.param


@pytest.fixture(params=STREAMING)
def streaming(request):
    return request.param


class TestEveryStorage:
    def test_multiples_of_the_stride_are_kept_snapshot_axis_last(self, kind, tmp_path):
        with make(kind, tmp_path, stride=3) as storage:
            feed(storage, range(20))
        assert_holds(storage.values, range(0, 20, 3))
        assert storage.values[1].shape == (2, 3, 7)
        assert_holds(open_storage(tmp_path / ALL[kind][1]).values, range(0, 20, 3))

    def test_values_can_be_read_at_any_time_and_again(self, kind, tmp_path):
        storage = make(kind, tmp_path)
        for n in range(11):
            for _ in range(2):
                assert_holds(storage.values, range(n))
            feed(storage, [n])
        storage.save()
        storage.save()
        assert_holds(storage.values, range(11))
        storage.close()
        storage.close()
        assert_holds(storage.values, range(11))

    def test_earlier_values_stay_what_they_were(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            feed(storage, range(6))
            before = storage.values
            feed(storage, range(6, 20))
            assert_holds(before, range(6))
        assert_holds(before, range(6))

    def test_an_empty_save_is_harmless(self, kind, tmp_path):
        storage = make(kind, tmp_path)
        storage.save()
        time, data = storage.values
        assert (time.shape, data.shape) == ((0,), (0, 0, 0))
        assert open_storage(tmp_path / ALL[kind][1]).data.shape == (0, 0, 0)
        feed(storage, range(5))
        storage.close()
        assert_holds(open_storage(tmp_path / ALL[kind][1]).values, range(5))

    def test_snapshots_follow_a_save(self, kind, tmp_path):
        storage = make(kind, tmp_path)
        for n in range(12):
            feed(storage, [n])
            storage.save()
            stored = open_storage(tmp_path / ALL[kind][1])
            assert stored.is_complete
            assert_holds(stored.values, range(n + 1))
            stored.close()
        storage.close()

    def test_data_is_copied(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            state = np.zeros((2, 3))
            for i in range(7):
                storage.store(i, state, i)
                state += 1
        assert storage.values[1][0, 0].tolist() == list(range(7))

    def test_what_values_give_is_no_way_to_change_what_is_kept(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            feed(storage, range(3))
            for index in (..., slice(None), (0, slice(None))):
                storage.values[1][index][:] = -1
                storage.values[0][:] = -1
            assert_holds(storage.values, range(3))

    @pytest.mark.parametrize("time", [3, np.int32(3), np.float32(3), jnp.array(3), np.array(3.0)])
    def test_times_of_any_number_type_become_float64(self, kind, tmp_path, time):
        with make(kind, tmp_path) as storage:
            storage.store(time, snapshot(0), np.int64(0))
        assert storage.values[0].dtype == np.float64
        assert np.asarray(storage.values[0]).tolist() == [3.0]

    @pytest.mark.parametrize("dtype", ["float32", "complex64", "int16", "bool", "bfloat16", ">f8"])
    @pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 0), (2, 3, 4), ()])
    def test_shapes_and_dtypes_come_back(self, kind, tmp_path, shape, dtype):
        dtype = jnp.bfloat16 if dtype == "bfloat16" else dtype
        with make(kind, tmp_path) as storage:
            feed(storage, range(6), shape=shape, dtype=dtype)
        time, data = open_storage(tmp_path / ALL[kind][1]).values
        assert data.dtype == np.dtype(dtype).newbyteorder("=")
        assert data.shape == (*shape, 6)
        wanted = np.stack([snapshot(i, shape, dtype) for i in range(6)], axis=-1)
        np.testing.assert_array_equal(np.asarray(data), wanted)

    def test_jax_arrays_and_lists_are_taken(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            storage.store(0, jnp.ones((2, 3)), 0)
        assert storage.values[1].dtype == np.float32
        with NumpyStorage(1) as storage:
            storage.store(0, [[1, 2], [3, 4]], 0)
        assert storage.values[1][..., 0].tolist() == [[1, 2], [3, 4]]

    def test_what_is_there_is_not_overwritten(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            feed(storage, range(5))
        with pytest.raises(ExistsError, match=ALL[kind][1]):
            make(kind, tmp_path)
        assert_holds(open_storage(tmp_path / ALL[kind][1]).values, range(5))

    def test_directories_above_are_made(self, kind, tmp_path):
        with make(kind, tmp_path / "a" / "b", avoid_race_condition=True) as storage:
            feed(storage, range(5))
        assert_holds(open_storage(tmp_path / "a" / "b" / ALL[kind][1]).values, range(5))

    def test_another_shape_or_dtype_is_refused_with_both(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            feed(storage, range(5))
            with pytest.raises(MismatchError, match=r"\(2, 4\) float64.*\(2, 3\) float64"):
                storage.store(0, snapshot(0, (2, 4)), 5)
            with pytest.raises(MismatchError, match=r"\(2, 3\) int32.*\(2, 3\) float64"):
                storage.store(0, snapshot(0, dtype="int32"), 5)
            feed(storage, range(5, 9))
        assert_holds(storage.values, range(9))

    def test_what_is_no_number_is_refused(self, kind, tmp_path):
        with make(kind, tmp_path) as storage:
            for iteration in (np.nan, "3", -1, 2.0, None):
                with pytest.raises(ValueError, match="iteration_number must be a whole number"):
                    storage.store(0.0, snapshot(0), iteration)
            for time in (np.nan, "3", None, 1j, np.zeros(1), np.array(1j)):
                with pytest.raises(ValueError, match="time must be a real number"):
                    storage.store(time, snapshot(0), 0)
            for data in (["a"], [None]):
                with pytest.raises(FormatError, match="cannot be stored"):
                    storage.store(0.0, data, 0)
            feed(storage, [0])
        assert_holds(storage.values, [0])

    @pytest.mark.parametrize("size", [0, -1, 1.5, "2"])
    def test_sizes_are_checked_before_anything_is_made(self, kind, tmp_path, size):
        with pytest.raises(ValueError, match="stride must be a whole number >= 1"):
            make(kind, tmp_path, stride=size)
        if kind != "npz":
            with pytest.raises(ValueError, match="chunk_size must be a whole number >= 1"):
                make(kind, tmp_path, chunk_size=size)
        assert list(tmp_path.iterdir()) == []

    def test_a_closed_storage_takes_no_more(self, kind, tmp_path):
        storage = make(kind, tmp_path)
        storage.close()
        storage.save()
        with pytest.raises(BusyError, match="takes no more snapshots"):
            feed(storage, [0])

    def test_an_error_in_the_block_is_the_one_that_is_seen_and_all_is_saved(self, kind, tmp_path):
        with pytest.raises(KeyError, match="mine"), make(kind, tmp_path) as storage:
            feed(storage, range(6))
            raise KeyError("mine")
        assert_holds(open_storage(tmp_path / ALL[kind][1]).values, range(6))

    def test_it_says_what_it_is(self, kind, tmp_path):
        storage = make(kind, tmp_path, stride=2)
        feed(storage, range(9))
        for part in (type(storage).__name__, "5 snapshots of (2, 3) float64", "stride 2"):
            assert part in repr(storage)
        storage.close()
        assert "closed" in repr(storage)


class TestTheLastSnapshot:
    @pytest.mark.parametrize("keep_last", [True, False])
    def test_it_is_kept_on_demand(self, kind, tmp_path, keep_last):
        with make(kind, tmp_path, stride=3, keep_last=keep_last) as storage:
            feed(storage, range(9))
        assert_holds(storage.values, [0, 3, 6, 8] if keep_last else [0, 3, 6])

    def test_it_is_kept_once(self, kind, tmp_path):
        storage = make(kind, tmp_path, stride=3, keep_last=True)
        feed(storage, range(9))
        for _ in range(3):
            storage.save()
        feed(storage, [8])  # the same iteration again
        storage.close()
        assert_holds(storage.values, [0, 3, 6, 8])

    def test_what_the_stride_keeps_is_not_kept_again(self, kind, tmp_path):
        with make(kind, tmp_path, stride=3, keep_last=True) as storage:
            feed(storage, range(10))
        assert_holds(storage.values, [0, 3, 6, 9])

    def test_once_kept_it_stays_whatever_follows(self, kind, tmp_path):
        storage = make(kind, tmp_path, stride=3, keep_last=True)
        feed(storage, range(5))
        storage.save()
        feed(storage, range(5, 12))
        storage.close()
        assert_holds(open_storage(tmp_path / ALL[kind][1]).values, [0, 3, 4, 6, 9, 11])

    def test_values_do_not_show_it_before(self, kind, tmp_path):
        storage = make(kind, tmp_path, stride=3, keep_last=True)
        feed(storage, range(5))
        assert_holds(storage.values, [0, 3])
        storage.close()


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=25, deadline=None)
@given(
    stride=st.integers(1, 5),
    chunk_size=st.integers(1, 7),
    n_steps=st.integers(0, 30),
    saves=st.sets(st.integers(0, 30), max_size=3),
    keep_last=st.booleans(),
)
def test_a_storage_equals_a_plain_list(
    kind, tmp_path_factory, stride, chunk_size, n_steps, saves, keep_last
):
    wanted = []
    folder = tmp_path_factory.mktemp("storage")
    with make(kind, folder, stride, chunk_size, keep_last=keep_last) as storage:
        for i in range(n_steps):
            feed(storage, [i])
            is_end = keep_last and (i in saves or i == n_steps - 1)
            if i % stride == 0 or is_end:
                wanted.append(i)
            if i in saves:
                storage.save()
    assert_holds(storage.values, wanted)
    assert_holds(open_storage(folder / ALL[kind][1]).values, wanted)


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
        with pytest.raises(OSError, match="No space") as caught:
            for i in range(4, 200):
                feed(storage, [i])
                storage._stream._writer._thread.join(0.01)
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
        with pytest.raises(KeyError, match="mine") as caught, make(streaming, tmp_path) as storage:
            feed(storage, range(2))
            monkeypatch.setattr(storage._stream._store, "write", lambda *_: 1 / 0)
            raise KeyError("mine")
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
        with pytest.raises(ExistsError, match="a.npz is already there"):
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


class TestOwnStorage:
    def test_a_user_derives_another_backend(self, tmp_path):
        class TextStorage(BaseStorage):
            def save(self):
                np.savetxt(self.save_directory, [snapshot.time for snapshot in self.kept])

            @property
            def values(self):
                return [s.time for s in self.kept], [s.data for s in self.kept]

        with TextStorage(2, tmp_path / "deep" / "a.txt", avoid_race_condition=True) as storage:
            feed(storage, range(5))
        assert np.loadtxt(tmp_path / "deep" / "a.txt").tolist() == [0.0, 1.0, 2.0]

    def test_the_base_alone_cannot_be_made(self):
        with pytest.raises(TypeError, match="abstract"):
            BaseStorage(1)
