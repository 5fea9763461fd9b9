"""Killed is not lost: results of processes that were killed, bit for bit as of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processed import bits, hdf5_file, waves, zarr_file
from programs import process_until_killed

import jaxstore as js

PLACES = {
    "zarr beside": (zarr_file, "s.zarr", "s.zarr"),
    "hdf5 in the same file": (hdf5_file, "s.h5", "s.h5"),
    "hdf5 in another file": (zarr_file, "s.zarr", "o.h5"),
}


def soak(tmp_path, place, n_kills, seed, n_items=600):
    made, source_file, target = PLACES[place]
    values = np.abs(waves(n_items, 16)) % 1
    source = made(tmp_path / source_file, values)
    command = [
        sys.executable, process_until_killed.__file__,
        source, tmp_path / target, str(n_kills), str(seed),
    ]  # fmt: skip
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert child.returncode == 0, child.stderr
    told = [json.loads(line) for line in child.stdout.splitlines()]
    assert not [one for one in told if "unreadable" in one]
    assert not [one for one in told if one["failed"]], child.stderr
    for one in told:
        # What was marked when a child began is not computed again by it, nor twice by anyone.
        assert len(one["before"]) <= 1
        assert not set(one["computed"]) & set(*one["before"]), one
        assert len(set(one["computed"])) == len(one["computed"])
    (res,) = js.find(tmp_path / target)
    assert res.state == "complete"
    wanted = js.process(
        process_until_killed.kernel,
        source,
        "memory",
        engine="serial",
        **process_until_killed.settings(),
    )
    assert bits(res) == bits(wanted)
    assert (res["wave"][:] == 0).all(1).sum() > n_items / 4  # zeros that are results
    assert res.verify().is_sound
    assert np.array_equal(res.params["table"], process_until_killed.settings()["params"]["table"])
    (again,) = js.find(tmp_path / target, source=source)
    assert again.fingerprint == res.fingerprint == wanted.fingerprint
    kept = js.process(lambda x: x, source, "memory", name="same", progress=False)
    assert np.array_equal(kept["result"], values)  # the source is as it was
    return sum(one["killed"] for one in told), [len(one["computed"]) for one in told]


@pytest.mark.parametrize("place", ["zarr beside", "hdf5 in the same file"])
def test_a_process_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path, place):
    kills, computed = soak(tmp_path, place, 4, seed=5)
    assert kills >= 3, computed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", [0, 1])
def test_soak_of_kills(tmp_path: Path, place, seed):
    kills, computed = soak(tmp_path, place, 50, seed=seed, n_items=9000)
    assert kills >= 45, computed
