"""Opening an HDF5 file, and what its errors mean.

Owned here: HDF5's errors as those that a caller can act on, and the read lock. When a file is
open and for how long is `hdf5_handle`.
"""

from __future__ import annotations

import errno
import os
import re
import time
import weakref
from collections import Counter
from contextlib import suppress
from pathlib import Path

import h5py

from jaxstore.errors import BusyError, ExistsError, FormatError, MissingError
from jaxstore.stores.files import partial_beside, sync_folder
from jaxstore.stores.hdf5_flags import SIGNATURE
from jaxstore.stores.hdf5_journal import recover
from jaxstore.stores.hdf5_lock import CAN_LOCK, free, share
from jaxstore.stores.hdf5_record import read_beside
from jaxstore.stores.hdf5_stuck import is_stuck, keep_stuck
from jaxstore.stores.holder import subject

_PATIENCE_S = 10.0  # of a writer with readers; one read takes far less
_PAUSE_S = 0.002
# HDF5 has one descriptor of a file, and so one lock, for all who have it open in a process.
_let: Counter[tuple[int, int]] = Counter()  # how many of them want none, by device and inode
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # no other way of doing the same helps
_FULL_BYTES = 1 << 16  # HDF5 names no errno at times; with less than this left, the disk is full


def create_file(path: Path, *, durable: bool) -> h5py.File:
    """Make a new file, never touching what is there; it has its name once it is whole and locked.

    Under that name from the start, a reader could open it before HDF5 has locked it, and so lock
    its writer out.
    """
    _make_folder(path.parent, durable=durable)
    if os.path.lexists(path):
        raise _exists(path)
    file = _linked_file(path)
    if durable:
        sync_file(file)
        sync_folder(str(path.parent))
    return file


def new_file(path: Path) -> h5py.File:
    """A new file, of which nothing is left if it cannot be made."""
    file = None
    try:
        file = h5py.File(path, "x")
        file.flush()  # before the first flush a killed writer leaves a file that does not open
        return file
    except FileExistsError:
        raise _exists(path) from None
    except BaseException as error:
        if file is not None:
            _discard(file, path)
        path.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):
            raise disk_error(error, path) from error
        raise


def open_file(path: Path, mode: str) -> h5py.File:
    """Open a file that is there, with HDF5's own lock.

    Raises:
        BusyError: Another process writes it; or, for writing, one reads it for too long.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        if not path.exists():
            raise MissingError(f"There is no file {path}. Check the path, or create it first.")
        recover(path)
        if is_stuck(path):
            raise BusyError(
                f"{path}: HDF5 cannot let go of it in this process, since a write failed. Go on in "
                "a new process."
            )
        try:
            return h5py.File(path, mode)
        except PermissionError:
            raise
        except OSError as error:
            if error.errno == errno.EAGAIN:
                # Readers have the lock only while they read.
                is_read = mode == "r+" and _is_only_read(path)
                if is_read and time.monotonic() < until:
                    time.sleep(_PAUSE_S)
                    continue
                raise _busy(path, is_read=is_read) from error
            if "already open" in str(error):
                # So have readers in this process, of which HDF5 says it in other words.
                if mode == "r+" and "read-only" in str(error) and time.monotonic() < until:
                    time.sleep(_PAUSE_S)
                    continue
                raise BusyError(f"{path} cannot be opened with mode={mode!r}: {error}") from error
            if error.errno in _OF_THE_DISK:
                raise disk_error(error, path) from error
            raise FormatError(
                f"{path} is not a readable HDF5 file: {_what(path)} ({error})"
            ) from error


def check_plain(file: h5py.File) -> None:
    """Refuse a file that cannot be synchronized.

    Raises:
        ValueError: It is no plain file on a disk.
    """
    if file.driver != "sec2":
        raise ValueError(
            f"durable=True needs a plain file, this one is open with the driver {file.driver!r}. "
            "Open it with h5py's default driver."
        )


def sync_file(file: h5py.File) -> None:
    """Wait until what HDF5 has written is on the disk."""
    os.fsync(file.id.get_vfd_handle())


def lock(file: h5py.File, path: Path) -> None:
    """Take the lock of a reader on a file that is open already."""
    if not share(file.id.get_vfd_handle()):
        raise _busy(path, is_read=False)


def unlock(file: h5py.File) -> None:
    """Give back the lock of a file that stays open for reading."""
    free(file.id.get_vfd_handle())


def let_write(file: h5py.File, holder: object) -> None:
    """Give back the lock of a file for as long as `holder`, who keeps it open, lives."""
    key = _key(file)
    _let[key] += 1
    weakref.finalize(holder, _let.subtract, {key: 1})
    unlock(file)


def is_let(file: h5py.File) -> bool:
    """Whether who else has a file open in this process asked for no lock on it."""
    return _let[_key(file)] > 0


def _key(file: h5py.File) -> tuple[int, int]:
    status = os.fstat(file.id.get_vfd_handle())
    return status.st_dev, status.st_ino


def disk_error(error: Exception, path: Path) -> Exception:
    """An error of h5py, with its errno if a full disk is the cause.

    HDF5 reports a failed flush as RuntimeError, at times without the errno of the system.
    """
    if isinstance(error, OSError) and error.errno and error.filename:
        return error
    found = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
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


def _discard(file: h5py.File, path: Path) -> None:
    """Let go of a file that will not be: HDF5 knows open files by inodes, which others may get."""
    detach(file)
    try:
        file.close()
    except (OSError, RuntimeError):  # a system without memfd; HDF5 has freed half of it
        keep_stuck(file, path)


def _linked_file(path: Path) -> h5py.File:
    partial = Path(partial_beside(str(path)))
    file = new_file(partial)
    try:
        os.link(partial, path)
        return file
    except FileExistsError:
        _discard(file, partial)
        raise _exists(path) from None
    except OSError as error:
        _discard(file, partial)
        if error.errno in _OF_THE_DISK:
            raise
    finally:
        partial.unlink(missing_ok=True)
    return new_file(path)  # a file system without hard links


def _make_folder(folder: Path, *, durable: bool) -> None:
    new = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in new if durable else []:
        sync_folder(str(made.parent))


def _exists(path: Path) -> ExistsError:
    return ExistsError(
        f"{path} is already there and will not be overwritten. Choose another path, "
        "open it to continue it, or remove it."
    )


def _is_only_read(path: Path) -> bool:
    """Whether those who have a file locked only read it."""
    try:
        with path.open("rb") as file:
            return CAN_LOCK and share(file.fileno())
    except OSError:
        return False


def _busy(path: Path, *, is_read: bool) -> BusyError:
    if is_read:
        return BusyError(
            f"{path}: Another process has the file open for reading. "
            "Try again when it has finished or closed it."
        )
    holder = None
    with suppress(FormatError, OSError):
        beside = read_beside(path)
        holder = beside.holder if beside is not None else None
    if holder is not None and holder.is_gone:  # then it is a program that tells nothing
        holder = None
    return BusyError(
        f"{path}: {subject(holder)} has the file open for writing. "
        "Try again when it has finished or closed it."
    )


def _what(path: Path) -> str:
    if path.is_dir():
        is_zarr = any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
        return "it is a directory" + (" with a Zarr store" if is_zarr else "")
    with path.open("rb") as file:
        head = file.read(8)
    if head == SIGNATURE:
        return (
            "it is an HDF5 file, but damaged or cut short; if a run was killed here, run it again "
            "with resume=True, else restore the file from a copy"
        )
    return f"it begins with {head!r}" if head else "it is empty"


def _is_full(path: Path) -> bool:
    try:
        disk = os.statvfs(path)
    except (OSError, AttributeError, ValueError):  # no such file, no such call: nobody knows
        return False
    return disk.f_bavail * disk.f_frsize < _FULL_BYTES
