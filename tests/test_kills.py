"""Killed is not lost: a few kills of real programs; `soak.py` does many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fault_shim
import numpy as np
import pytest
import soak
from programs import resumable
from programs.whole_stores import assert_same_arrays, decoded

import jaxstore as js

SETTINGS = {"chunk_draws": "16", "buffer_draws": "40", "queue_bytes": "65536"}
LENGTH, EVERY = 300, 50


@pytest.mark.parametrize(
    ("where", "how"),
    [("zarr", "triple"), pytest.param("hdf5", "ragged", marks=pytest.mark.slow)],
)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, how: str
) -> None:
    monkeypatch.setattr(soak, "LENGTH", 600)
    monkeypatch.setattr(soak, "LATEST_S", 0.4)
    monkeypatch.setattr(resumable, "HOWS", (how,))
    tally = soak.soak(where, 2, tmp_path, seed=3)
    assert tally.kills >= 2


@pytest.mark.parametrize(
    ("suffix", "how"),
    [pytest.param("zarr", "scan", marks=pytest.mark.slow), ("h5", "triple")],
)
def test_a_program_killed_in_the_midst_of_a_change_of_a_file_goes_on(
    tmp_path: Path, suffix: str, how: str
) -> None:
    library = fault_shim.build(tmp_path)
    folder = tmp_path / "runs"
    folder.mkdir()
    path = folder / f"run.{suffix}"
    command = [
        sys.executable, resumable.__file__, how, str(path), *SETTINGS.values(), str(LENGTH),
        str(EVERY), "0",
    ]  # fmt: skip
    faults = {"FAULT_UNDER": str(folder), "FAULT_AT": "120", "FAULT_HOW": "2"}
    env = os.environ | fault_shim.environment(library)
    killed = subprocess.run(command, env=env | faults, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    same = "ragged" if how == "triple" else how
    whole = tmp_path / f"whole.{suffix}"
    made = js.HDF5Collector if suffix == "h5" else js.ZarrCollector
    with made(whole, group=None) as collector:
        wanted = resumable.sampled(same, collector, LENGTH, every=EVERY)
    with js.open_run(path) as run:
        for chain, n in enumerate(run.sample_count.tolist()):
            assert np.array_equal(run.iteration[chain, :n], wanted.iteration[chain, :n])
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert_same_arrays(decoded(path), decoded(whole))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("where", ["zarr", "hdf5", "s3"])
def test_soak(tmp_path: Path, where: str) -> None:
    assert soak.soak(where, 34, tmp_path, seed=0).kills >= 34
