"""Processing by real ranks: the bits of one process, what is not done once each, and failures."""

from __future__ import annotations

import signal
import sys

import numpy as np
import pytest
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
from programs.process_ranks import REDUCTIONS, TARGETS, peaks
from test_topology import MPIEXEC, PROGRAMS, run

from jaxstore.stores.results import DONE

TODO_UNITS = sorted(set(range(N_UNITS)) - set(DONE_UNITS))


def start(ranks, *arguments):
    return run(
        MPIEXEC, "-n", ranks, sys.executable, "-W", "error", "-m", "mpi4py",
        PROGRAMS / "process_ranks.py", *arguments,
    )  # fmt: skip


def units_of(folder, command, ranks, call):
    """The units of each rank in one call."""
    notes = [(folder / f"units-{command}-{rank}").read_text() for rank in range(ranks)]
    lines = [text.split("\n")[call] for text in notes]
    return [sorted(map(int, line.split())) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("mpi4py")
    if not MPIEXEC.exists():
        pytest.skip("no mpiexec beside the interpreter")
    return make_source(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def expected(folder):
    return in_one_process(folder)


@pytest.fixture(scope="module")
def done(folder, expected):
    for target in ("begun.zarr", "begun.h5"):
        begin(folder, target)
    ended = start(3, "same", folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


@pytest.fixture(scope="module")
def ended(folder):
    return start(4, "trouble", folder)


class TestThreeRanks:
    @pytest.mark.parametrize("target", TARGETS)
    def test_bits_are_those_of_one_process(self, done, expected, target):
        assert bits(result_in(done / target)) == expected["all"]

    def test_each_unit_is_computed_once_and_the_shares_are_even(self, done):
        for call in (0, 1):
            assert units_of(done, "same", 3, call) == [list(range(i, N_UNITS, 3)) for i in range(3)]

    @pytest.mark.parametrize(("call", "target"), [(2, "begun.zarr"), (3, "begun.h5")])
    def test_what_is_not_done_is_computed_once_and_the_rest_stays(
        self, done, expected, call, target
    ):
        shares = units_of(done, "same", 3, call)
        assert sorted(unit for share in shares for unit in share) == TODO_UNITS
        assert [len(share) for share in shares] == [5, 5, 5]
        result = result_in(done / target)
        assert_continued(result, expected["all"])
        assert [s["engine"] for s in result.manifest.sessions] == ["threads", "mpi"]

    def test_a_selection_in_any_order_comes_the_same(self, done, expected):
        assert bits(result_in(done / "some.zarr")) == expected["some"]

    def test_results_go_into_the_very_file_that_all_ranks_read(self, done, expected):
        assert bits(result_in(f"{done}/raw.h5:/deep")) == expected["all"]

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_reductions_are_those_of_one_process(self, done, expected, reduction):
        found = result_in(done / "out.zarr", f"x-{reduction}_000")
        assert bits(found) == expected[reduction]

    def test_a_reduction_into_hdf5_is_that_into_zarr(self, done, expected):
        assert bits(result_in(done / "out.h5", "x-mean_000")) == expected["mean"]

    def test_a_second_call_computes_nothing(self, done):
        assert units_of(done, "same", 3, 6) == [[], [], []]

    def test_nothing_of_the_members_is_left(self, done):
        assert not [path for path in done.iterdir() if "part" in path.name]


@pytest.mark.slow
class TestFourRanks:
    def said(self, folder, name):
        return [(folder / f"{name}-{rank}").read_text() for rank in range(4)]

    def test_seven_units_load_two_two_two_and_one(self, ended, folder):
        assert [len(share) for share in units_of(folder, "trouble", 4, 0)] == [2, 2, 2, 1]

    @pytest.mark.parametrize(
        ("call", "target", "own", "told"),
        [
            (1, "fail.zarr", "ValueError: no such peak", "ValueError: no such peak"),
            (2, "stop.h5", "KeyboardInterrupt:", "KeyboardInterrupt:"),
        ],
    )
    def test_one_rank_fails_all_stop_and_another_engine_does_the_rest(
        self, ended, folder, monkeypatch, call, target, own, told
    ):
        said = self.said(folder, target)
        for rank in (0, 1, 3):
            stops = f"rank 2 failed, so rank {rank} of 4 stops"
            assert said[rank].rstrip() == f"JaxstoreError: {stops}: {told}"
        assert said[2] == own
        begun = units_of(folder, "trouble", 4, call)
        assert all(len(share) < 10 for share in begun), "they went on to the end"
        left = result_in(folder / target)
        was_done = np.flatnonzero(left.status == DONE).tolist()
        assert left.state == "partial"
        assert 0 < len(was_done) < 40
        again = noting_units(monkeypatch)
        whole = peaks(folder, folder / target, chunks=1, engine="threads", workers=2)
        assert sorted(again) == sorted(set(range(40)) - set(was_done))
        assert bits(whole) == bits(peaks(folder, "memory", chunks=1, engine="serial"))

    def test_a_result_in_memory_is_refused_before_anything_is_computed(self, ended, folder):
        assert all("each of 4 ranks has for itself" in text for text in self.said(folder, "memory"))

    def test_ranks_that_were_asked_for_something_else_are_refused(self, ended, folder):
        said = self.said(folder, "other")
        assert "params.scale is 7.0 there and 8.0 here" in said[1]
        assert said[0].startswith("MismatchError: rank 1 failed, so rank 0 of 4 stops")
        assert not result_in(folder / "other.zarr").status.any()

    def test_a_source_that_one_rank_does_not_see_is_an_error_of_all(self, ended, folder):
        said = self.said(folder, "absent")
        assert all(text.startswith("MissingError") for text in said)
        assert "rank 1 failed, so rank 3 of 4 stops" in said[3]
        assert not (folder / "absent.zarr").exists()

    def test_an_error_that_nobody_catches_ends_the_job(self, ended):
        assert ended.returncode != 0
        assert "ValueError: no such peak" in ended.stderr


@pytest.mark.parametrize(
    ("target", "victim"),
    [pytest.param("kill.zarr", 1, marks=pytest.mark.slow), ("kill.h5", 0)],
)
def test_a_rank_is_killed_and_another_engine_does_the_rest(folder, monkeypatch, target, victim):
    ended = start(2, "killed", folder, target, victim)
    assert ended.returncode in (signal.SIGKILL, -signal.SIGKILL, 128 + signal.SIGKILL), ended
    assert result_in(folder / target).state == "partial"
    again = noting_units(monkeypatch)
    whole = peaks(folder, folder / target, chunks=1, engine="threads", workers=2)
    assert len(set(again)) == len(again)
    assert 0 < len(again) < 40, "what was marked is done"
    assert bits(whole) == bits(peaks(folder, "memory", chunks=1, engine="serial"))
