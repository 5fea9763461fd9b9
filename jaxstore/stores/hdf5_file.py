"""Opening an HDF5 file, and what its errors mean.

Owned here: HDF5's errors as those that a caller can act on, and the read lock. When a file is
open and for how long is `hdf5_handle`.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

import h5py

from jaxstore.errors import BusyError, ExistsError, FormatError, MissingError

try:
    import fcntl
except ImportError:  # Windows: readers close the file after each operation instead
    fcntl = None  # type: ignore[assignment]

CAN_UNLOCK = fcntl is not None
_FULL_BYTES = 1 << 16  # HDF5 names no errno at times; with less than this left, the disk is full


def create_file(path: Path) -> h5py.File:
    """Make a new file, never touching what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = h5py.File(path, "x")
    except OSError as error:
        # Of a file that is open in this process already, HDF5 knows no errno.
        if not isinstance(error, FileExistsError) and "file exists" not in str(error):
            raise
        raise ExistsError(
            f"{path} is already there and will not be overwritten. Choose another path, "
            "open it to continue it, or remove it."
        ) from None
    file.flush()  # before the first flush a killed writer leaves a file that does not open
    return file


def open_file(path: Path, mode: str) -> h5py.File:
    """Open a file that is there, with HDF5's own lock."""
    if not path.exists():
        raise MissingError(f"There is no file {path}. Check the path, or create it first.")
    try:
        return h5py.File(path, mode)
    except PermissionError:
        raise
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise _busy(path, mode) from error
        if "already open" in str(error):
            raise BusyError(f"{path} cannot be opened with mode={mode!r}: {error}") from error
        raise FormatError(f"{path} is not a readable HDF5 file: {_what(path)} ({error})") from error


def lock(file: h5py.File, path: Path) -> None:
    """Take the lock of a reader on a file that is open already."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(path, "r") from None
    except OSError as error:  # HDF5 ignores a file system without locks, and so do we
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise


def unlock(file: h5py.File) -> None:
    """Give back the lock of a file that stays open for reading."""
    if fcntl is not None:
        fcntl.flock(file.id.get_vfd_handle(), fcntl.LOCK_UN)


def disk_error(error: Exception, path: Path) -> Exception:
    """An error of h5py, with its errno if a full disk is the cause.

    HDF5 reports a failed flush as RuntimeError, at times without the errno of the system.
    """
    if isinstance(error, OSError) and error.errno:
        return error
    found = re.search(r"errno = (\d+)", str(error))
    number = int(found[1]) if found else None
    if number is None and isinstance(error, OSError | RuntimeError) and _is_full(path):
        number = errno.ENOSPC
    if number is None:
        return error
    return OSError(number, f"{os.strerror(number)}: {error}", str(path))


def detach(file: h5py.File) -> None:
    """Give a broken file a descriptor of nothing, so that its end can neither fail nor write.

    On a full disk HDF5 fails to close, tries again when the process ends, and crashes there. And
    the half of its caches that still fits would be written over a sound file. So the file on disk
    stays as a kill at this moment would have left it, which is what `commit` is made for.
    """
    # No memfd outside Linux; a handle that HDF5 has closed already is nothing to protect.
    with suppress(AttributeError, OSError, ValueError, RuntimeError):
        nowhere = os.memfd_create("jaxstore")
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)


def _busy(path: Path, mode: str) -> BusyError:
    if mode == "r":
        what = "Another process has the file open for writing"
    else:
        what = "Another process has the file open, for writing or for reading"
    return BusyError(f"{path}: {what}. Try again when it has finished or closed it.")


def _what(path: Path) -> str:
    if path.is_dir():
        is_zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
        return "it is a directory" + (" with a Zarr store" if is_zarr else "")
    with path.open("rb") as file:
        head = file.read(8)
    if head == b"\x89HDF\r\n\x1a\n":
        return "it is an HDF5 file, but damaged or cut short"
    return f"it begins with {head!r}" if head else "it is empty"


def _is_full(path: Path) -> bool:
    try:
        disk = os.statvfs(path)
    except (OSError, AttributeError, ValueError):  # no such file, no such call: nobody knows
        return False
    return disk.f_bavail * disk.f_frsize < _FULL_BYTES
