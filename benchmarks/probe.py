"""The side of a fresh process: its memory, its clock, and its answer, one JSON line.

Owned here: what all probes share. What they run is that of `loading.probe` and `processing.probe`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOUCHED_BYTES = 600 * 2**20


def answer(run: Callable[[], dict[str, Any]]) -> None:
    """Print what a job gave, or which package it lacks."""
    try:
        found = run()
    except ModuleNotFoundError as error:
        found = {"absent": f"{error.name} is not installed"}
    print(json.dumps(found))


def import_jaxstore() -> Any:
    """jaxstore, with what it imports when it is first needed: imports are measured for nobody."""
    for name in ("h5py", "hdf5plugin", "numcodecs", "obstore", "zarr"):
        importlib.import_module(name)
    for name in ("stores", "sources", "loading", "processing"):
        package = importlib.import_module(f"jaxstore.{name}")
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("engines_"):  # of packages that may be absent
                importlib.import_module(f"jaxstore.{name}.{module.name}")
    return importlib.import_module("jaxstore")


def touch_memory() -> None:
    """Touch as much memory as any contender takes, and give it back, right before it is used.

    A virtual machine gives memory back that has been free for two seconds, and gets it again at the
    first touch, which then takes longer than an epoch (measured: 160 MB in 8 or in 360 ms).
    """
    taken = np.empty(TOUCHED_BYTES, np.uint8)
    taken[::4096] = 1
    del taken
    forget_peak()


def cpu_s() -> float:
    """Of all threads of this process and of children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak_bytes() -> int:
    """Peak resident memory since this program began."""
    # ru_maxrss starts at the peak of the process that forked this one; VmHWM does not.
    found = from_status("VmHWM:")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Let `peak_bytes` count from now on, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int:
    """Resident memory now; where the system does not tell, the peak so far."""
    found = from_status("VmRSS:")
    return peak_bytes() if found is None else found


def from_status(field: str) -> int | None:
    """Bytes of a field of /proc/self/status; None where there is none."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None
