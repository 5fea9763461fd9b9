"""Several processes load one data set: MPI ranks with shares, and one JAX job with global ones."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import zarr
from s3_server import free_port
from stored_rows import numbered
from test_topology import MPIEXEC, PROGRAMS, environment, run

import jaxstore as js

N_ROWS = 100
PROGRAM = PROGRAMS / "load_share.py"


@pytest.fixture
def path(tmp_path):
    array = zarr.open_group(tmp_path / "a.zarr", mode="w").create_array(
        "x", shape=(N_ROWS, 3), chunks=(4, 3), dtype="f4"
    )
    array[:] = numbered(N_ROWS)
    return tmp_path / "a.zarr"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    return folder


def wanted(path):
    loader = js.Loader(path, ["x"], batch_size=12, window_chunks=4, to="numpy")
    return [batch for _ in range(2) for batch in loader]


def parts_in(folder, n):
    assert len(list(folder.iterdir())) == n
    return [np.load(folder / f"{rank}.npz") for rank in range(n)]


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_ranks_of_mpi_have_the_batches_of_one_process_among_them(path, folder, ranks):
    pytest.importorskip("mpi4py")
    if not MPIEXEC.exists():
        pytest.skip("no mpiexec beside the interpreter")
    done = run(MPIEXEC, "-n", ranks, sys.executable, "-m", "mpi4py", PROGRAM, path, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = parts_in(folder, ranks)
    for i, batch in enumerate(wanted(path)):
        for name, whole in (("x", batch["x"]), ("rows", batch.rows), ("mask", batch.mask)):
            assert np.array_equal(np.concatenate([part[name][i] for part in parts]), whole)


def test_processes_of_jax_have_one_global_array_each_with_its_own_rows(path, folder):
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, PROGRAM, path, folder, str(rank), "2", port],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, stderr = rank.communicate(timeout=120)
        assert rank.returncode == 0, stderr
    parts = parts_in(folder, 2)
    held = [part["held"][0] for part in parts]
    assert [h.tolist() for h in held] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    for i, batch in enumerate(wanted(path)):
        for part, positions in zip(parts, held, strict=True):
            assert np.array_equal(part["x"][i], batch["x"][positions])
            assert np.array_equal(part["rows"][i], batch.rows[positions])
            assert np.array_equal(part["mask"][i], batch.mask[positions])
