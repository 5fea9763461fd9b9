"""What the tests of `process` on several processes share: a source, and what is to come of it."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import zarr
from programs.process_ranks import REDUCTIONS, SELECT, peaks, reduced

from jaxstore.processing.job import Job
from jaxstore.processing.manifest import Manifest
from jaxstore.processing.result import Result
from jaxstore.stores.results import DONE
from jaxstore.stores.results_place import results_at

N_ITEMS, N_UNITS = 40, 20
DONE_UNITS = [1, 2, 7, 8, 15]
PLANTED = 1000.0


def make_source(folder):
    values = np.random.default_rng(0).normal(size=(N_ITEMS, 16)).astype("f4")
    group = zarr.open_group(folder / "raw.zarr", mode="w")
    group.create_array("x", shape=values.shape, chunks=(4, 16), dtype="f4")[:] = values
    with h5py.File(folder / "raw.h5", "w") as file:
        file.create_dataset("deep/x", data=values, chunks=(4, 16))
    return folder


def bits(result):
    """All arrays of a result."""
    assert result.state == "complete"
    return {name: (result[name].dtype, result[name][...].tobytes()) for name in result}


def in_one_process(folder):
    """What has to come, by name of the test."""
    found = {"all": bits(peaks(folder, "memory", engine="serial"))}
    found["some"] = bits(peaks(folder, "memory", engine="serial", select=SELECT))
    for name in REDUCTIONS:
        found[name] = bits(reduced(folder, "memory", name, engine="serial"))
    return found


def begin(folder, target):
    """A result of which some units are done, with values that nobody would compute."""
    name = peaks(folder, folder / target, engine="threads").name
    owner = results_at(folder / target).open(name, role="owner")
    manifest = Manifest.from_json(owner.manifest(), location="")
    owner.set_manifest(dataclasses.replace(manifest, state="partial").to_json())
    marks = np.zeros(N_UNITS, np.uint8)
    marks[DONE_UNITS] = DONE
    owner.set_marks(marks)
    for array in manifest.outputs:
        values = owner.read(array.name)
        owner.write(array.name, (0,) * values.ndim, planted(values))
    owner.close()


def planted(values):
    return (values + PLANTED).astype(values.dtype)


def rows_of(units):
    return np.concatenate([np.arange(2 * unit, 2 * unit + 2) for unit in units])


def assert_continued(result, expected):
    """What was done is as it was planted, the rest as it has to be."""
    assert result.state == "complete"
    done = rows_of(DONE_UNITS)
    for name in result:
        dtype, data = expected[name]
        values = np.frombuffer(data, dtype).reshape(result[name].shape).copy()
        values[done] = planted(values[done])
        assert result[name][...].tobytes() == values.tobytes(), name


def result_in(where, name="x-peak_000"):
    return Result(results_at(where), name)


def noting_units(monkeypatch):
    """A list of all units that run in this process from here on."""
    units = []
    run = Job.run

    def noted(job, unit, turn=None):
        units.append(unit)
        run(job, unit, turn)

    monkeypatch.setattr(Job, "run", noted)
    return units
