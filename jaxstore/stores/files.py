"""Files that are replaced whole: written beside, then renamed.

Owned here: what a killed process leaves behind, and how it is told from what a live one writes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Buffer, Sequence
from pathlib import Path

_SUFFIX = ".partial"  # as zarr's LocalStore names its own
_MOST_BYTES = 1 << 30  # in one call; Linux takes 2 GiB at most, macOS refuses as much
_count = itertools.count()


def put_file(path: str, parts: Sequence[Buffer]) -> None:
    """Write the parts as one file; readers see the file before or the one after.

    On failure the file is as it was, and the error is the one of the system.
    """
    beside = f"{path}.{socket.gethostname()}-{os.getpid()}-{next(_count)}{_SUFFIX}"
    try:
        file = _open_new(beside)
        try:
            _write_all(file, [memoryview(part).cast("B") for part in parts])
        finally:
            os.close(file)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of processes that are gone from this machine."""
    for path in folder.glob(f"*.{socket.gethostname()}-*{_SUFFIX}"):
        pid = path.name.removesuffix(_SUFFIX).split("-")[-2]
        if pid.isdigit() and not _is_alive(int(pid)):
            path.unlink(missing_ok=True)


def _open_new(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, flags, 0o666)


def _write_all(file: int, parts: list[memoryview]) -> None:
    """Write every byte of the parts without joining them."""
    left = [part[i : i + _MOST_BYTES] for part in parts for i in range(0, len(part), _MOST_BYTES)]
    while left:
        some = left[:2]  # a piece and its checksum; more than 2 pieces may pass the limit
        n_written = os.writev(file, some) if hasattr(os, "writev") else os.write(file, some[0])
        while left and n_written >= len(left[0]):
            n_written -= len(left.pop(0))
        if n_written:
            left[0] = left[0][n_written:]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
