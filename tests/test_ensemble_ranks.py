"""One ensemble on one, two and four MPI ranks: the same store, and the moments of the theory."""

from __future__ import annotations

import hashlib
import math
import sys

import numpy as np
import pytest
from programs.gbm_paths import PARAMS
from test_topology import MPIEXEC, PROGRAMS, run

import jaxstore as js

N = 100_000


def paths_on(n_ranks, target):
    pytest.importorskip("mpi4py")
    if not MPIEXEC.exists():
        pytest.skip("no mpiexec beside the interpreter")
    program = [sys.executable, "-m", "mpi4py", PROGRAMS / "gbm_paths.py", target, N]
    launcher = [] if n_ranks == 1 else [MPIEXEC, "-n", n_ranks]
    done = run(*launcher, *program)
    assert done.returncode == 0, done.stderr
    return js.find(target)[0]


def chunks_of(folder):
    """Every stored chunk of the outputs, by its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("end", "path")
        for path in sorted((folder / name).rglob("c/*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_any_number_of_ranks_makes_the_same_store_with_the_moments_of_the_theory(tmp_path):
    results = {n: paths_on(n, tmp_path / f"{n}.zarr") for n in (1, 2, 4)}
    stored = {n: chunks_of(tmp_path / f"{n}.zarr" / result.name) for n, result in results.items()}
    assert stored[1] == stored[2] == stored[4]
    assert len(stored[1]) > 10
    end = results[4]["end"][:].astype(float)
    # Of the scheme, whose steps are independent factors: no error of discretisation is left.
    growth = 1 + PARAMS["mu"] * PARAMS["dt"]
    mean = growth ** PARAMS["steps"]
    square = (growth**2 + PARAMS["sigma"] ** 2 * PARAMS["dt"]) ** PARAMS["steps"]
    assert len(end) == N
    assert abs(end.mean() - mean) < 5 * end.std() / math.sqrt(N)
    assert abs((end**2).mean() - square) < 5 * (end**2).std() / math.sqrt(N)
    # Of the equation itself, up to the error of the steps.
    exact = math.exp(PARAMS["mu"])
    assert abs(end.mean() - exact) < 5 * end.std() / math.sqrt(N) + 1e-3
    spread = exact**2 * math.expm1(PARAMS["sigma"] ** 2)
    assert np.var(end) == pytest.approx(spread, rel=0.05)
