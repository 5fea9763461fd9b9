"""Memory of this process."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path


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
