"""Watching a run in a terminal, in a pipe, and by machines."""

import io
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from hand_written import HandWritten
from typer.testing import CliRunner

import jaxstore as js
from jaxstore import cli
from jaxstore.face import pace, screen, watch
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.zarr3 import ZarrStore


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def run():
    run = HandWritten(MemoryStore(), settings={"length": 90, "chains": 2})
    run.grow(5, 5)
    return run


def watched(run, events=(), stream=None, **options):
    """What `watch` writes while these things happen, one per wait."""
    stream, events, waits = stream or io.StringIO(), list(events), []

    def sleep(seconds):
        waits.append(seconds)
        assert len(waits) < 20
        if events:
            events.pop(0)()

    options = {"every_s": 0.7, "is_once": False, "is_json": False} | options
    watch.watch(run.store, stream=stream, sleep=sleep, **options)
    assert set(waits) <= {0.7}
    assert not events
    return stream.getvalue()


def test_a_pipe_gets_a_plain_line_per_commit_until_the_run_ends(run):
    def nothing():
        pass

    events = [
        nothing,
        lambda: run.grow(20, 15),
        nothing,
        lambda: run.grow(30, 30, state="complete"),
    ]
    lines = watched(run, events).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("running: 2 chains of 5 draws, ")
    assert "14 % of 90 steps" in lines[0]
    assert lines[1].startswith("running: 2 chains of 15 to 20 draws, ")
    assert lines[2].startswith("complete: 2 chains of 30 draws, ")
    assert "100 %" in lines[2]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_lines_that_change_in_place(run):
    out = watched(run, [lambda: run.grow(30, 30, state="interrupted")], Terminal())
    first, *rest = out.split("\x1b[")
    assert [line.split()[0] for line in first.splitlines()] == [
        "memory",
        "state",
        "draws",
        "progress",
        "speed",
    ]
    n_lines = 5
    for part in rest[::2]:
        assert part.startswith(f"{n_lines}A\r")
        n_lines = out[out.index(part) :].split("\x1b[")[1].count("\n")
    assert "state     interrupted, last commit" in rest[-1]
    assert "2 chains of 30, committed" in rest[-1]


def test_a_line_longer_than_the_terminal_is_cut_so_that_it_stays_one(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    screen.Screen(stream).draw(["x" * 50, "short"])
    assert stream.getvalue() == "x" * 19 + "\nshort\n"


def test_once_looks_once(run):
    (line,) = watched(run, is_once=True).splitlines()
    assert line.startswith("running: 2 chains of 5 draws")


def test_machines_get_an_object_per_look(run):
    out = watched(run, [lambda: run.grow(30, 30, state="complete")], is_json=True)
    first, last = map(json.loads, out.splitlines())
    assert (first["state"], first["draws"], first["steps"]) == ("running", [5, 5], 13)
    assert (last["state"], last["share"], last["length"]) == ("complete", 1.0, 90)


def test_a_run_that_stopped_committing_says_so(run):
    record = run.store.committed() | {"committed_at": "2020-01-01T00:00:00+00:00"}
    run.store.commit(record)
    assert "slow, or killed" in watched(run, [lambda: run.grow(6, 6, state="complete")], Terminal())
    run.store.commit(record | {"state": "complete"})
    assert "slow, or killed" not in watched(run, (), Terminal())


class Locked(MemoryStore):
    is_locked = False

    def committed(self):
        if self.is_locked:
            raise js.BusyError("another process writes it")
        return super().committed()


def test_a_store_that_is_busy_is_asked_again():
    run = HandWritten(Locked())
    run.grow(5, 5)

    def lock(*, is_locked):
        run.store.is_locked = is_locked

    def end():
        lock(is_locked=False)
        run.grow(9, 9, state="complete")

    out = watched(run, [lambda: lock(is_locked=True), end], Terminal())
    assert "running, last commit" in out
    assert "; locked just now" in out
    assert "complete" in out
    lock(is_locked=True)
    with pytest.raises(js.BusyError):
        watched(run)


def test_speed_is_that_of_the_last_looks_and_begins_anew_after_a_cut():
    seen = pace.Pace()
    assert seen.per_s() is None
    for at in range(100):
        seen.add(pace.Moment(float(at), 10 * at if at < 50 else 490 + 100 * (at - 49), at))
    draws, steps = seen.per_s()
    assert (draws, steps) == (pytest.approx(100), pytest.approx(1))
    assert len(seen.moments) <= pace.PACE_S + 2
    seen.add(pace.Moment(100.0, 7, 1))
    assert seen.per_s() is None
    seen.add(pace.Moment(110.0, 107, 21))
    assert seen.per_s() == (10.0, 2.0)


def sampled(values):
    """A finished run of these values, (chain, draw, component)."""
    import jax.numpy as jnp

    n = values.shape[1]
    _, run = js.scan(
        lambda c, x: (c, {"flag": x[:, 0] > 0, "x": x}), 0, jnp.asarray(values.swapaxes(0, 1)),
        length=n, chains=len(values), collector=js.MemoryCollector(), progress=False,
    )  # fmt: skip
    return run


def test_r_hat_and_ess_are_those_of_arviz():
    arviz = pytest.importorskip("arviz")
    values = np.random.default_rng(0).normal(size=(4, 900, 3)).astype(np.float32)
    values[2, :, 1] += 3
    run = sampled(values)
    gauge = pace.Gauge()
    assert gauge.look(run)
    found = gauge.agreement()
    tree = run.to_datatree()["samples"].to_dataset()
    assert found.r_hat[0] == ("x[1]", pytest.approx(float(arviz.rhat(tree)["x"][1]), rel=1e-6))
    assert found.ess[0] == ("x[1]", pytest.approx(float(arviz.ess(tree)["x"][1]), rel=1e-6))
    assert (found.n_draws, found.n_components, found.n_all) == (900, 4, 4)
    assert not gauge.look(run)


def test_draws_are_read_once_in_bounded_pieces_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(pace, "LOOK_BYTES", 4 * 4 * (1 + 12) * 100)
    monkeypatch.setattr(pace, "MOST_DRAWS", 128)
    values = np.arange(4 * 3000 * 3, dtype=np.float32).reshape(4, 3000, 3)
    run, reads = sampled(values), []
    read = pace.StoredArray.__getitem__

    def counted(self, index):
        reads.append((self.name, index[1].start, index[1].stop))
        return read(self, index)

    monkeypatch.setattr(pace.StoredArray, "__getitem__", counted)
    gauge = pace.Gauge()
    gauge.look(run)
    for name in ("samples/x", "samples/flag"):
        own = [(a, b) for n, a, b in reads if n == name]
        assert [a for a, _ in own] == [0, *(b for _, b in own[:-1])]
        assert own[-1][1] == 3000
        assert max(b - a for a, b in own) <= 400
    kept = gauge._kept
    apart = gauge._apart
    assert 64 < kept.shape[1] <= 128
    assert np.array_equal(kept[:, :, 1:], values[:, ::apart])


def test_many_components_are_chosen_evenly():
    run = sampled(np.zeros((2, 3, 200), np.float32))
    picked = list(pace.pick(list(run.leaves), most=50))
    assert len(picked) == 50
    assert len({(leaf.name, index) for leaf, index in picked}) == 50
    assert picked[0][0].name == "samples/flag"
    assert picked[-1][1] == (199,)


def test_a_run_without_numbers_or_draws_is_watched_too(tmp_path):
    run = HandWritten(MemoryStore())
    run.commit((), state="interrupted")
    assert watched(run).startswith("interrupted: 0 chains of 0 draws")


class TestCommand:
    def run_cli(self, *words):
        return CliRunner().invoke(cli.app, ["watch", *map(str, words)])

    def test_it_watches_a_path(self, tmp_path):
        run = HandWritten(ZarrStore.new(tmp_path / "run.zarr"))
        run.grow(5, 5, state="complete")
        result = self.run_cli(tmp_path / "run.zarr")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("complete: 2 chains of 5 draws")
        assert json.loads(self.run_cli(tmp_path / "run.zarr", "--once", "--json").stdout)["steps"]

    def test_what_is_not_there_is_one_line(self, tmp_path):
        result = self.run_cli(tmp_path / "absent")
        assert result.exit_code == 1
        assert "nothing is there" in result.stderr

    @pytest.mark.skipif(os.name == "nt", reason="signals")
    def test_ctrl_c_ends_it_and_says_that_the_run_goes_on(self, tmp_path):
        run = HandWritten(ZarrStore.new(tmp_path / "run.zarr"))
        run.grow(5, 5)
        code = "from jaxstore.cli import app; app()"
        words = [sys.executable, "-c", code, "watch", str(tmp_path / "run.zarr"), "--every", "30"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert process.stdout.readline().startswith("running: 2 chains of 5")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
        assert process.returncode == 130
        assert errors == "jaxstore: stopped watching; the run goes on\n"
