"""The library that kills a process at its n-th change of a file: built once, preloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "programs" / "fault_points.c"


def build(folder: Path) -> Path:
    """Compile it; skips where there is no compiler, or no preloading."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    library = folder / "fault_points.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """What a process has to find in its environment to be under it."""
    return {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)}
