"""The lock that HDF5 takes of a file, taken by ourselves.

Owned here: holding it beside HDF5, so that other users of h5py are kept out too. A writer has it
exclusively, a reader shares it; the kernel frees it when the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CAN_LOCK = fcntl is not None  # else readers close the file after each operation
_PATIENCE_S = 10.0  # with readers, who have the lock only while they read
_PAUSE_S = 0.002


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the exclusive lock of a file; False if a writer has it, or the file is gone."""
    file = lock_file(path, os.O_RDONLY)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def lock_file(path: Path, how: int) -> int | None:
    """A descriptor that holds the exclusive lock of a file; None if a writer has it.

    None too where there are no locks at all, or no such file; and if one reads it for too long.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            file = os.open(path, how)
        except FileNotFoundError:
            return None
        is_mine = False
        try:
            is_mine = _take(file) and _is_still(path, file)
            if is_mine:
                return file
            if not (CAN_LOCK and share(file)) or time.monotonic() > until:
                return None
        finally:
            if not is_mine:
                os.close(file)
        time.sleep(_PAUSE_S)


@contextlib.contextmanager
def shared(path: Path) -> Iterator[int]:
    """Hold the lock of a file with others, waiting for who has it exclusively; a descriptor.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_SH)
        yield file
    finally:
        os.close(file)


def share(file: int) -> bool:
    """Take the lock of an open file together with other readers; False if a writer has it."""
    return fcntl is None or _flock(file, fcntl.LOCK_SH)


def free(file: int) -> None:
    """Give back the lock of a file that stays open."""
    if fcntl is not None:
        _flock(file, fcntl.LOCK_UN)


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _take(file: int) -> bool:
    try:
        return fcntl is not None and _flock(file, fcntl.LOCK_EX)
    except OSError:  # NFS gives none of a file that is open for reading
        return False


def _flock(file: int, how: int) -> bool:
    assert fcntl is not None
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # HDF5 ignores a file system without locks, and so do we
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    return True
