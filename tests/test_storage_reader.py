"""Opening what storages have saved: whole, killed, and of many ranks as one ensemble."""

import contextlib
import re
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from pairs import in_turn
from storing import ALL, STREAMING, feed, make, snapshot
from test_topology import PROGRAMS, environment, mpi

from jaxstore.errors import FormatError, JaxstoreError, MismatchError, MissingError
from jaxstore.saving.storage_reader import member_paths, open_ensemble, open_storage, rank_directory
from jaxstore.saving.storages import NumpyStorage, ZarrStorage
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.location import create_store


def run_and_kill(kind, path, *, save_every, after_s, once=lambda path: True):
    """Kill a storing process some time after `once` held; gives what it said it saved."""
    program = [sys.executable, str(PROGRAMS / "storage_until_killed.py")]
    process = subprocess.Popen(
        [*program, kind, str(path), str(save_every)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout.readline() == "begun\n"
    first = process.stdout.readline() if save_every else ""  # the first save has come back
    until = time.monotonic() + 100
    while not once(path):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    said = (first + process.communicate()[0]).splitlines()
    return max((int(line.split()[1]) for line in said if line[-1:].isdigit()), default=0)


def has_committed(path):
    with contextlib.suppress(JaxstoreError), open_storage(path) as stored:
        return len(stored.time) > 0
    return False


def assert_exact(stored):
    """Every committed snapshot is what the program gave."""
    n = len(stored.time)
    np.testing.assert_array_equal(stored.time, np.arange(n) * 1.0)
    if n:
        wanted = np.full((2, 50, n), 2 * np.arange(n)) + np.arange(50)[:, None]
        np.testing.assert_array_equal(stored.data, wanted)


class TestAfterAKill:
    @pytest.mark.parametrize(("kind", "after_s"), in_turn(STREAMING, [0.0, 0.15, 0.4], every=2))
    def test_committed_snapshots_are_exact(self, kind, tmp_path, after_s):
        path = tmp_path / ALL[kind][1]
        once = {"once": has_committed} if after_s == 0.4 else {}
        run_and_kill(kind, path, save_every=0, after_s=after_s, **once)
        with open_storage(path) as stored:
            assert not stored.is_complete
            assert len(stored.time) % 8 == 0
            assert len(stored.time) > 0 or after_s < 0.4
            assert_exact(stored)

    @pytest.mark.parametrize(("kind", "after_s"), in_turn(STREAMING, [0.2, 0.3], every=2))
    def test_all_that_was_saved_is_there(self, kind, tmp_path, after_s):
        path = tmp_path / ALL[kind][1]
        saved = run_and_kill(kind, path, save_every=7, after_s=after_s)
        with open_storage(path) as stored:
            assert_exact(stored)
            assert saved > 0
            assert len(stored.time) >= saved

    @pytest.mark.parametrize("kind", STREAMING)
    @pytest.mark.parametrize("dtype", ["float32", "complex64", jnp.bfloat16])
    @pytest.mark.parametrize("n_before", [2, 6])
    def test_saved_snapshots_survive_damage_to_their_chunk_while_it_is_rewritten(
        self, kind, tmp_path, monkeypatch, dtype, n_before
    ):
        storage = make(kind, tmp_path)
        for i in range(n_before):
            storage.store([0.1, np.inf][i % 2], snapshot(i, dtype=dtype), i)
        storage.save()

        def killed(name, start, values):
            if kind == "hdf5":
                HDF5Store.write(storage._stream._store, name, start, np.zeros_like(values))
            raise SystemExit

        monkeypatch.setattr(storage._stream._store, "write", killed)
        storage.store(9.0, snapshot(9, dtype=dtype), n_before)
        with pytest.raises(SystemExit):
            storage.save()
        with pytest.raises(SystemExit):
            storage.close()
        with open_storage(tmp_path / ALL[kind][1]) as stored:
            assert np.asarray(stored.time).tolist() == [0.1, np.inf] * (n_before // 2)
            assert stored.data.dtype == dtype
            wanted = np.stack([snapshot(i, dtype=dtype) for i in range(n_before)], axis=-1)
            np.testing.assert_array_equal(stored.data, wanted)


class TestOpening:
    def test_a_missing_or_foreign_place_is_refused(self, tmp_path):
        with pytest.raises(MissingError, match="nowhere"):
            open_storage(tmp_path / "nowhere.zarr")
        with pytest.raises(MissingError, match="nowhere"):
            open_storage(tmp_path / "nowhere.npz")
        for name in ("other.zarr", "other.h5"):
            create_store(tmp_path / name).close()
            with pytest.raises(FormatError, match="is not a jaxstore storage"):
                open_storage(tmp_path / name)
        np.savez(tmp_path / "other.npz", x=np.zeros(3))
        with pytest.raises(FormatError, match="not an npz file with time and data"):
            open_storage(tmp_path / "other.npz")

    def test_a_newer_format_is_refused(self, tmp_path):
        store = create_store(tmp_path / "new.zarr")
        store.set_attrs({"jaxstore": {"kind": "storage", "format_version": 99}})
        with pytest.raises(FormatError, match=r"format 99.*Update jaxstore"):
            open_storage(tmp_path / "new.zarr")

    def test_it_says_what_it_is(self, tmp_path):
        with make("zarr", tmp_path) as storage:
            feed(storage, range(5))
        found = repr(open_storage(tmp_path / "paths.zarr"))
        assert "5 snapshots of (2, 3) float64, complete" in found


def write_ranks(folder, n_ranks, *, kind="zarr", steps=6, widths=None):
    base = folder / ALL[kind][1]
    for rank in range(n_ranks):
        path = rank_directory(base, rank=rank)
        storage = ALL[kind][0](*((1,) if kind == "npz" else (1, 4)), path)
        n = steps if isinstance(steps, int) else steps[rank]
        width = 3 if widths is None else widths[rank]
        for i in range(n):
            storage.store(0.5 * i, np.full((2, width), 1000 * rank + i), i)
        storage.close()
    return base


class TestEnsemble:
    def test_each_rank_has_a_path_of_its_own(self):
        assert rank_directory("a/b.c/paths.zarr", rank=12).as_posix() == "a/b.c/paths_p12.zarr"
        assert rank_directory("paths", rank=0).as_posix() == "paths_p0"
        assert rank_directory("s3://bucket/paths.zarr", rank=2) == "s3://bucket/paths_p2.zarr"
        assert rank_directory("paths.zarr").as_posix() == "paths_p0.zarr"

    @pytest.mark.parametrize("kind", ALL)
    def test_ranks_follow_one_another_along_the_trajectories(self, kind, tmp_path):
        base = write_ranks(tmp_path, 12, kind=kind, widths=[3] * 11 + [5])
        wanted = np.concatenate(
            [
                np.full((2, 5 if rank == 11 else 3, 6), 1000 * rank) + np.arange(6)
                for rank in range(12)
            ],
            axis=1,
        )
        pattern = base.with_name(f"{base.stem}_p*{base.suffix}")
        listed = [rank_directory(base, rank=rank) for rank in range(12)]
        for paths in (base, str(base), pattern, listed):
            with open_ensemble(paths) as ensemble:
                time, data = ensemble.values
                assert time.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
                assert (data.shape, data.dtype) == ((2, 38, 6), wanted.dtype)
                for index in (..., 1, (0, slice(2, 4)), (..., -1), (0, -1, 2), (0, [0, 37, 5])):
                    np.testing.assert_array_equal(data[index], wanted[index])
                assert data[:, 5:5].shape == (2, 0, 6)
                assert ensemble.is_complete
                assert "of 12 ranks" in repr(ensemble)

    def test_only_ranks_that_hold_some_of_it_are_read(self, tmp_path, monkeypatch):
        ensemble = open_ensemble(write_ranks(tmp_path, 3))
        monkeypatch.setattr(ensemble.members[0].data, "read", lambda region: 1 / 0)
        assert ensemble.data[0, 3:, 0].tolist() == [1000] * 3 + [2000] * 3
        with pytest.raises(ZeroDivisionError):
            ensemble.data[0, 2:, 0]

    def test_another_axis_joins_components(self, tmp_path):
        assert open_ensemble(write_ranks(tmp_path, 2), axis=0).data.shape == (4, 3, 6)
        with pytest.raises(ValueError, match="axis 2 is not one"):
            open_ensemble(tmp_path / "paths.zarr", axis=2)

    def test_a_rank_that_is_missing_is_named(self, tmp_path):
        base = write_ranks(tmp_path, 4, kind="npz")
        rank_directory(base, rank=2).unlink()
        with pytest.raises(MissingError, match=r"ranks \[2\].*only of \[0, 1, 3\]"):
            open_ensemble(base)
        with pytest.raises(MissingError, match=r"ranks \[0\]"):
            open_ensemble(tmp_path / "other.zarr")
        with pytest.raises(MissingError, match="nothing matches"):
            open_ensemble(tmp_path / "other*.zarr")
        with pytest.raises(MissingError, match="empty list"):
            open_ensemble([])
        with pytest.raises(ValueError, match="Give a list"):
            member_paths("s3://bucket/paths.zarr")

    def test_unequal_counts_are_refused_unless_only_the_common_part_is_wanted(self, tmp_path):
        base = write_ranks(tmp_path, 3, steps=[6, 4, 5])
        with pytest.raises(MismatchError, match=re.escape("[6, 4, 5]")):
            open_ensemble(base)
        ensemble = open_ensemble(base, only_common=True)
        assert (ensemble.time.shape, ensemble.data.shape) == ((4,), (2, 9, 4))
        assert ensemble.data[0, :, -1].tolist() == [3] * 3 + [1003] * 3 + [2003] * 3

    def test_other_times_shapes_or_dtypes_are_refused(self, tmp_path):
        kinds = {
            "a": (0.5, np.zeros((2, 3))),
            "b": (0.6, np.zeros((2, 3))),
            "c": (0.5, np.zeros((3, 3))),
            "d": (0.5, np.zeros((2, 3), "float32")),
        }
        for name, (at, data) in kinds.items():
            with ZarrStorage(1, 4, tmp_path / name) as storage:
                storage.store(at, data, 0)
        for name, message in {"b": "time 0.6", "c": r"\(3, 3\)", "d": "float32"}.items():
            with pytest.raises(MismatchError, match=message):
                open_ensemble([tmp_path / "a", tmp_path / name])

    def test_snapshots_of_one_axis_are_joined_along_it(self, tmp_path):
        for rank in range(2):
            with NumpyStorage(1, rank_directory(tmp_path / "x.npz", rank=rank)) as storage:
                storage.store(0, np.arange(3) + 10 * rank, 0)
        assert open_ensemble(tmp_path / "x.npz").data[:, 0].tolist() == [0, 1, 2, 10, 11, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mpi(folder, "storages", "same_path")
    return folder


class TestUnderMPI:
    def test_only_the_root_makes_the_directory_and_ranks_become_one_ensemble(self, folder):
        for name in ("paths.zarr", "paths.h5", "paths.npz"):
            ensemble = open_ensemble(folder / "storages" / name.replace(".", "_") / name)
            assert ensemble.data.shape == (2, 30, 6)
            np.testing.assert_array_equal(ensemble.data[0, :, -1], np.repeat([0, 10, 20], 10) + 5)
            ensemble.close()

    def test_a_path_that_ranks_share_is_refused_but_for_one(self, folder):
        refused = sorted((folder / "same_path").glob("refused*"))
        assert len(refused) == 2
        assert "rank_directory(path)" in refused[0].read_text()
        assert open_storage(folder / "same_path" / "one.zarr").data.shape == (2, 3, 1)
