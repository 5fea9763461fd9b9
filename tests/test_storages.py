"""Storages for loops driven from Python: what is kept, when it is on disk, what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import ALL, assert_holds, feed, make, snapshot

from jaxstore.errors import BusyError, ExistsError, FormatError, MismatchError
from jaxstore.saving.base_storage import BaseStorage
from jaxstore.saving.storage_reader import open_storage
from jaxstore.saving.storages import NumpyStorage


@pytest.fixture(params=ALL)
def kind(request):
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
                np.asarray(storage.values[1][index])[:] = -1
                np.asarray(storage.values[0])[:] = -1
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
        data = open_storage(tmp_path / ALL[kind][1]).data
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
        def block():
            with make(kind, tmp_path) as storage:
                feed(storage, range(6))
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            block()
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
