"""A full disk at five moments, lost permission, a lost folder: an error, and no draw is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        ("zarr", "scan"),
        pytest.param("h5", "triple", marks=SLOW),
        pytest.param("zarr", "triple", marks=SLOW),
        pytest.param("h5", "scan", marks=SLOW),
    ],
)
def test_a_run_goes_on_in_the_same_process_once_there_is_room(
    disk: Path, suffix: str, how: str
) -> None:
    assert said(suffix, how, disk, "again") == [*MOMENTS, "permission", "folder"]


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        pytest.param("h5", "triple", marks=SLOW),
        pytest.param("zarr", "triple", marks=SLOW),
        pytest.param("zarr", "scan", marks=SLOW),
        pytest.param("h5", "scan", marks=SLOW),
    ],
)
def test_a_run_goes_on_in_another_process_once_there_is_room(
    disk: Path, suffix: str, how: str
) -> None:
    assert said(suffix, how, disk, "later") == MOMENTS
    assert said(suffix, how, disk, "resume") == MOMENTS
