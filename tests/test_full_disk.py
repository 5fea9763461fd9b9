"""A full disk at five moments, lost permission, a lost folder: an error, and no draw is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pairs import in_turn

PROGRAM = Path(__file__).parent / "programs" / "trouble.py"
MOMENTS = ["creation", "first chunk", "midway", "checkpoint", "seal"]


def said(suffix: str, how: str, disk: Path, what: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), suffix, how, str(disk), what],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,  # nothing may hang
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


RUNS = [(suffix, how) for suffix in ("zarr", "h5") for how in ("scan", "triple")]


# A run that goes on from a full disk in the default suite: test_fault_points.py.
@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "how"), RUNS)
def test_a_run_goes_on_in_the_same_process_once_there_is_room(
    disk: Path, suffix: str, how: str
) -> None:
    assert said(suffix, how, disk, "again") == MOMENTS


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "how"), RUNS)
def test_a_run_goes_on_in_another_process_once_there_is_room(
    disk: Path, suffix: str, how: str
) -> None:
    assert said(suffix, how, disk, "later") == MOMENTS
    assert said(suffix, how, disk, "resume") == MOMENTS


@pytest.mark.parametrize(("suffix", "how"), in_turn(["zarr", "h5"], ["scan", "triple"], every=4))
def test_a_run_whose_folder_is_lost_says_so_and_keeps_what_it_can(
    disk: Path, suffix: str, how: str
) -> None:
    assert said(suffix, how, disk, "lost") == ["permission", "folder"]
