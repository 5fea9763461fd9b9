"""Where figures were measured: machine, file system, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "jaxstore", "jax", "jaxlib", "numpy", "zarr", "numcodecs", "h5py", "hdf5plugin", "emcee",
    "obstore", "insitubatch", "annbatch", "zarrs", "grain", "xbatcher",
    "dask", "pyUSID", "joblib",
)  # fmt: skip


def describe(directory: Path) -> dict[str, Any]:
    """All of it, as JSON; `directory` is where files are written."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": memory_gib(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "file_system": file_system(directory),
        "directory": str(directory),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
    }


def cpu_model() -> str:
    """The name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Main memory."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def file_system(path: Path) -> str:
    """Kind and device of the file system that holds a path."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    place, best, found = path.resolve(), -1, "unknown"
    for line in mounts.read_text().splitlines():
        device, mount, kind, *_ = line.split()
        if place.is_relative_to(mount) and len(mount) >= best:
            best, found = len(mount), f"{kind} on {device}"
    return found


def version(package: str) -> str:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The commit of this checkout, with "+" where files differ from it."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        run = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()
