"""A run dies at any of its changes of files, and the next process goes on as if it had not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_shim
import pytest

PROGRAM = Path(__file__).parent / "programs" / "fault_points.py"
Die = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fault_shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def die(library: Path, tmp_path: Path) -> Die:
    """Let a run die at many changes of files; what came of each death."""

    def die(case: str, points: str, *hows: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, str(PROGRAM), case, str(tmp_path / case), points, *hows],
            env=os.environ | fault_shim.environment(library),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return die


def check(found: list[dict[str, Any]], n_deaths: int) -> None:
    """All went on to the whole run; the first entry says how many changes there are."""
    failures = [(p["scenario"], p["op"], p["n"], p["how"], p["failure"]) for p in found[1:]]
    assert not [failure for failure in failures if failure[-1]], failures
    assert len(found) - 1 >= n_deaths, len(found)


@pytest.mark.parametrize(
    "case",
    [
        "zarr-ragged",
        "hdf5-ragged",
        pytest.param("zarr-durable", marks=pytest.mark.slow),
        pytest.param("hdf5-durable", marks=pytest.mark.slow),
    ],
)
def test_a_death_at_a_change_of_a_file_costs_nothing_committed(die: Die, case: str) -> None:
    found = die(case, "7::61", "before", "half", "after")
    check(found, 4)
    assert {p["scenario"] for p in found[1:]} == {"begin", "resume"}


@pytest.mark.parametrize("case", ["zarr", "hdf5"])
@pytest.mark.slow
def test_a_death_at_every_change_of_one_checkpoint_costs_nothing(die: Die, case: str) -> None:
    found = die(case, "checkpoint", "half")
    check(found, 10)
    assert {"create", "rename"} <= {p["op"] for p in found[1:]}


# Each of the first changes: files are made and opened there.
@pytest.mark.parametrize(("points", "n_deaths"), [("1:8:1", 14), ("82::79", 2)])
@pytest.mark.parametrize("case", ["zarr", "hdf5"])
def test_a_disk_full_from_any_change_on_is_enospc_and_the_run_goes_on(
    die: Die, case: str, points: str, n_deaths: int
) -> None:
    check(die(case, points, "full"), n_deaths)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("how", ["before", "half", "after", "full"])
@pytest.mark.parametrize("more", ["", "-ragged", "-durable", "-ragged-small"])
@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_death_at_every_change_of_a_file(die: Die, kind: str, more: str, how: str) -> None:
    check(die(kind + more, "1::1", how), 100)
