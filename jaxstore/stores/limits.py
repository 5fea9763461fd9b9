"""What is too large to be read, decided before memory is taken.

Owned here: the bounds, and how much memory this machine has. A store may have been made by
anybody: a metadata file of a kilobyte can declare an array of terabytes.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from jaxstore.errors import TooLargeError

# Of one chunk, decoded: Blosc counts in int32 and adds a header of 16 bytes.
MOST_CHUNK_BYTES = 2**31 - 1 - 16
MOST_DOCUMENT_BYTES = 64 << 20  # of a JSON document; one of ours has a kilobyte per array at most
DEEPEST = 200  # lists and objects in one another, in JSON; those of people have ten
_CGROUPS = Path("/sys/fs/cgroup")


def check_memory(n_bytes: int, what: str) -> None:
    """Refuse to read what this machine can never hold.

    Args:
        n_bytes: That would be taken.
        what: Takes them: "'samples/x' in run.zarr: the region of (4, 1000)".

    Raises:
        TooLargeError: It is more than the machine, or this process's cgroup, has in all.
    """
    if n_bytes > (most := memory_bytes()):
        raise TooLargeError(
            f"{what} takes {n_bytes:,} bytes, there are {most:,} bytes of memory in all. "
            "Index a part of it."
        )


@cache
def memory_bytes() -> int:
    """Memory of this machine, or of this process's cgroup if that is less."""
    if not hasattr(os, "sysconf"):  # Windows, where NumPy's own MemoryError has to do
        return 2**63 - 1
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_cgroup_limits(Path("/proc/self/cgroup"), _CGROUPS)])


def _cgroup_limits(memberships: Path, mount: Path) -> list[int]:
    """The limits of the cgroups that a process is in, version 1 or 2, and of those above them."""
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        folder = mount / controllers / path.lstrip("/")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        # In a container the path may be that of the host, of which only the root is seen here.
        for above in (folder, *folder.parents):
            if above.is_relative_to(mount / controllers):
                limits += _limit_in(above / file)
    return limits


def _limit_in(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []  # "max" is none
