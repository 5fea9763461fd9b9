"""Processing by the workers of a real cluster: bits, each unit once, failures, and what is sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from processing import (
    DONE_UNITS,
    N_UNITS,
    assert_continued,
    begin,
    bits,
    in_one_process,
    make_source,
    noting_units,
    result_in,
)
from programs.process_ranks import PARAMS, REDUCTIONS, SELECT, TARGETS, peak, peaks, reduced

from jaxstore.errors import BusyError, FormatError, MismatchError
from jaxstore.processing.job import Job
from jaxstore.processing.process import process
from jaxstore.stores.results import DONE

distributed = pytest.importorskip("distributed")

# After the check that distributed is there.
from jaxstore.processing import engines_dask, engines_dask_worker  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def expected(folder):
    return in_one_process(folder)


@pytest.fixture(scope="module")
def client():
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def units(client, tmp_path):
    """Gives the units that workers ran in this test; `first` does something before."""
    client.run(note_units, tmp_path)
    yield lambda: sorted(
        int(u) for path in tmp_path.glob("ran-*") for u in path.read_text().split()
    )
    client.run(note_units, None)


def note_units(folder, first=lambda unit: None):
    """On a worker: note each unit that is run from here on."""
    plain = getattr(Job, "plain_run", Job.run)

    def noted(job, unit, turn=None):
        with (folder / f"ran-{os.getpid()}").open("a") as notes:
            notes.write(f"{unit} ")
        first(unit)
        plain(job, unit, turn)

    Job.plain_run = plain
    Job.run = plain if folder is None else noted


@pytest.mark.parametrize("target", TARGETS)
def test_bits_are_those_of_one_process_and_each_unit_is_run_once(
    client, units, folder, expected, target
):
    result = peaks(folder, folder / target, engine=client)
    assert bits(result) == expected["all"]
    assert units() == list(range(N_UNITS))
    assert result.manifest.sessions[-1]["engine"] == "dask"
    assert result.manifest.sessions[-1]["workers"] == 4
    again = peaks(folder, folder / target, engine=client)
    assert (again.name, units()) == (result.name, list(range(N_UNITS)))
    assert not [path for path in folder.iterdir() if "part" in path.name]


@pytest.mark.parametrize("target", ["begun.zarr", "begun.h5"])
def test_what_is_not_done_is_run_once_and_the_rest_stays(client, units, folder, expected, target):
    begin(folder, target)
    assert_continued(peaks(folder, folder / target, engine=client), expected["all"])
    assert units() == sorted(set(range(N_UNITS)) - set(DONE_UNITS))


def test_results_go_into_the_very_file_that_workers_read(client, folder, expected):
    found = process(
        peak, f"{folder}/raw.h5:/deep/x", params=PARAMS, chunks=2, batch_size=2, engine=client
    )
    assert bits(found) == expected["all"]
    assert found.location == f"{folder}/raw.h5:/deep/x-peak_000"


def test_a_selection_and_a_kernel_of_this_session_alone(client, folder, expected):
    def here(x, *, scale, many):  # not to be imported by anybody
        return peak(x, scale=scale, many=many)

    found = process(
        here, zarr.open_array(folder / "raw.zarr/x", mode="r"), folder / "some.zarr",
        params=PARAMS, select=SELECT, chunks=2, batch_size=2, engine=client,
    )  # fmt: skip
    assert bits(found) == expected["some"]


@pytest.mark.parametrize(
    "reduction",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "variance")) for name in REDUCTIONS],
)
def test_reductions_are_those_of_one_process(client, folder, expected, reduction):
    found = reduced(folder, folder / "out.zarr", reduction, engine=client)
    assert bits(found) == expected[reduction]


def test_workers_have_the_settings_of_jax_that_the_client_has(client, folder):
    def exact(x):
        return jnp.sin(x.astype("float64")) @ jnp.ones(16)

    source = f"{folder}/raw.zarr:/x"
    with jax.enable_x64(True):
        found = process(exact, source, folder / "wide.zarr", engine=client, batch_size=4)
        wanted = process(exact, source, "memory", engine="serial", batch_size=4)
    assert found["result"].dtype == "float64"
    assert bits(found) == bits(wanted)


def test_what_has_no_address_is_refused_before_anything_is_made(client, folder, tmp_path):
    with pytest.raises(MismatchError, match="a ndarray cannot be opened by other processes"):
        process(jnp.sum, np.ones((4, 2), "f4"), tmp_path / "a.zarr", engine=client, name="s")
    with pytest.raises(MismatchError, match="would go to memory, which workers of dask cannot"):
        peaks(folder, "memory", engine=client)
    assert not (tmp_path / "a.zarr").exists()


def test_an_error_arrives_as_itself_and_another_engine_does_the_rest(
    client, folder, tmp_path, monkeypatch
):
    make_source(tmp_path)
    chunk = tmp_path / "raw.zarr/x/c/5/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:9])
    token = {"source_token": "as it was"}
    with pytest.raises(FormatError, match=r"chunk \(5, 0\) is damaged") as caught:
        peaks(tmp_path, tmp_path / "a.h5", engine=client, **token)
    wheres = {"in item 20 of the result, unit 10", "in item 22 of the result, unit 11"}
    assert set(caught.value.__notes__) < wheres
    left = result_in(tmp_path / "a.h5")
    done = np.flatnonzero(left.status == DONE).tolist()
    assert left.state == "partial"
    assert not {10, 11} & set(done)
    chunk.write_bytes(whole)
    again = noting_units(monkeypatch)
    result = peaks(tmp_path, tmp_path / "a.h5", engine="threads", **token)
    assert sorted(again) == sorted(set(range(N_UNITS)) - set(done))
    assert bits(result) == bits(peaks(tmp_path, "memory", engine="serial", **token))


def test_an_interrupt_of_the_client_cancels_the_rest_and_leaves_what_is_done(
    client, folder, tmp_path, expected, monkeypatch
):
    client.run(note_units, tmp_path, first=lambda unit: time.sleep(0.05))
    counts = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(
            engines_dask.Keeper,
            "check",
            lambda keeper: next(counts) == 2 and signal.raise_signal(signal.SIGINT),
        )
        with pytest.raises(KeyboardInterrupt):
            peaks(folder, tmp_path / "a.zarr", engine=client)
    client.run(note_units, None)
    done = np.flatnonzero(result_in(tmp_path / "a.zarr").status == DONE).tolist()
    assert 3 <= len(done) < N_UNITS
    again = noting_units(monkeypatch)
    assert bits(peaks(folder, tmp_path / "a.zarr", engine="serial")) == expected["all"]
    assert sorted(again) == sorted(set(range(N_UNITS)) - set(done))


def test_a_worker_lets_go_of_a_session_whose_client_is_gone(client, folder, monkeypatch):
    monkeypatch.setattr(engines_dask.Cluster, "_end", lambda cluster, session: None)
    client.run(set_idle, 0.2)
    peaks(folder, folder / "left.zarr", engine=client)
    deadline = time.monotonic() + 20
    while any(client.run(n_desks).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.run(set_idle, 60.0)


def set_idle(seconds):
    engines_dask_worker._IDLE_S = seconds


def n_desks():
    return len(engines_dask_worker._desks._open)


def test_a_unit_that_comes_too_late_is_not_run():
    asyncio.run(engines_dask_worker.end_session("over"))
    with pytest.raises(BusyError, match="session over is over"):
        engines_dask_worker.run_units((0,), ticket=b"", session="over")


@pytest.mark.parametrize("target", [pytest.param("dying.zarr", marks=pytest.mark.slow), "dying.h5"])
def test_a_worker_is_killed_and_others_run_its_units(client, folder, tmp_path, expected, target):
    client.run(note_units, tmp_path, first=partial(die_once, tmp_path / "died"))
    result = peaks(folder, folder / target, engine=client)
    client.run(note_units, None)
    assert (tmp_path / "died").exists()
    assert bits(result) == expected["all"]


def die_once(flag, unit):
    if unit == 9:
        with contextlib.suppress(FileExistsError):
            flag.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


def test_an_array_of_a_result_goes_to_workers_as_its_address(client, folder, tmp_path):
    first = peaks(folder, tmp_path / "a.zarr", engine="serial")
    source = first[first.keys()[0]]
    results = [
        process(jnp.negative, source, tmp_path / name, engine=engine, progress=False)
        for name, engine in [("b.zarr", client), ("c.zarr", "serial")]
    ]
    assert bits(results[0]) == bits(results[1])
    held = peaks(folder, "memory", engine="serial")
    with pytest.raises(MismatchError, match="ResultArray cannot be opened by other processes"):
        process(jnp.negative, held[held.keys()[0]], tmp_path / "d.zarr", engine=client)
