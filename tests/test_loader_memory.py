"""Memory of a loader: what it announces is what it takes, in every epoch."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import zarr
from test_topology import PROGRAMS, run

N_ROWS, ROW = 16_384, (64, 64)  # 256 MB


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory") / "a.zarr"
    array = zarr.open_group(path, mode="w").create_array(
        "x", shape=(N_ROWS, *ROW), chunks=(64, *ROW), dtype="f4", compressors=None
    )
    block = np.ones((1024, *ROW), "f4")
    for start in range(0, N_ROWS, len(block)):
        array[start : start + len(block)] = block
    return path


@pytest.mark.parametrize("to", ["numpy", "jax"])
def test_an_eighth_of_the_data_is_announced_taken_and_no_more_in_later_epochs(path, to):
    done = run(sys.executable, PROGRAMS / "load_memory.py", path, "32MiB", to)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 24 * 2**20 < told["announced"] <= 32 * 2**20
    for peak in told["peaks"]:
        assert 0.85 * told["announced"] <= peak <= 1.15 * told["announced"]
