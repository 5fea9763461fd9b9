"""The open file behind an HDF5 store: when it is open, who is locked out, and what broke it.

Owned here: how long a file stays open and locked, and the end of a handle after a failed write.
What lies in the file is `hdf5`.

A writer keeps its file open, and with it the exclusive lock, until `release`. A reader keeps it
open too, since opening costs more than reading a chunk, but holds the lock only while it reads.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import h5py

from jaxstore.errors import BusyError, JaxstoreError
from jaxstore.stores.hdf5_file import (
    CAN_UNLOCK,
    create_file,
    detach,
    disk_error,
    lock,
    open_file,
    unlock,
)
from jaxstore.stores.hdf5_stuck import keep_stuck


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file, for as long as it stays open."""

    root: h5py.Group
    mode: str  # as asked for; h5py says "r+" of any file that this process also writes
    arrays: dict[str, Any] = field(default_factory=dict)  # what the store has looked up in it


class Handle(Protocol):
    """Access to the root group of a store."""

    location: str
    path: Path | None  # of the file, if it is ours
    is_writable: bool

    @property
    def is_sound(self) -> bool:
        """Whether no write has failed."""
        ...

    def reading(self) -> Any:
        """Context manager for one read; gives `Opened`."""
        ...

    def writing(self) -> Any:
        """Context manager for one write; an error in it ends the handle."""
        ...

    def release(self) -> None:
        """Flush what was written and let others have the file."""
        ...

    def reader(self) -> Handle:
        """Another handle on the same, for reading."""
        ...

    def close(self) -> None:
        """Let go for good; raises nothing after an error."""
        ...


class _Life:
    """Whether a handle may still be used, and the error that forbids it."""

    def __init__(self, location: str, *, is_writable: bool) -> None:
        self.location = location
        self.is_writable = is_writable
        self.is_closed = False
        self.error: BaseException | None = None

    def check(self, *, writing: bool) -> None:
        if self.is_closed:
            raise BusyError(f"{self.location} is closed. Open it again.")
        if self.error is not None:
            raise BusyError(
                f"{self.location}: an earlier write failed ({self.error}), so HDF5's handle is no "
                "longer sound. Close this store and open it again; what was committed is there."
            )
        if writing and not self.is_writable:
            raise BusyError(f"{self.location} is open for reading. Open it with mode='r+'.")


class FileHandle:
    """A file that is ours to open and to close."""

    # Guards opening, closing and the counts of users of all handles: readers of a file have to
    # make way for a writer of this process, since HDF5 shares one open file between them.
    _turn = threading.Condition(threading.RLock())
    _all: ClassVar[weakref.WeakSet[FileHandle]] = weakref.WeakSet()

    def __init__(self, path: Path, file: h5py.File, *, is_writable: bool) -> None:
        self.location = str(path)
        self.path: Path | None = path
        self._path = path
        self.is_writable = is_writable
        self._life = _Life(self.location, is_writable=is_writable)
        self._users = 0
        self._opened: Opened | None = Opened(file["/"], "r+" if is_writable else "r")
        self._version = _version(path)
        self._all.add(self)
        with self._turn:
            self._rest()

    @classmethod
    def create(cls, path: Path, *, durable: bool) -> FileHandle:
        """Make a new file, never touching what is there."""
        return cls(path, create_file(path, durable=durable), is_writable=True)

    @classmethod
    def open(cls, path: Path, *, is_writable: bool) -> FileHandle:
        """Open a file that is there; for writing, it is locked from here on."""
        with cls._turn:
            if is_writable:
                cls._refuse_second(path)
            cls._clear_readers(path, only_old=not is_writable)
            return cls(path, open_file(path, "r+" if is_writable else "r"), is_writable=is_writable)

    @property
    def is_sound(self) -> bool:
        """Whether no write has failed."""
        return self._life.error is None

    @contextmanager
    def reading(self) -> Iterator[Opened]:
        """The file for one read, as it lies on disk now."""
        with self._turn:
            self._life.check(writing=False)
            opened, self._users = self._enter_reading(), self._users + 1
        try:
            yield opened
        finally:
            self._leave()

    @contextmanager
    def writing(self) -> Iterator[Opened]:
        """The file for one write; any error of HDF5 in it is the last one on this handle."""
        with self._turn:
            self._life.check(writing=True)
            opened = self._enter_writing()
            self._users += 1
        try:
            yield opened
        except JaxstoreError:
            raise
        # Whatever h5py makes of HDF5's error, the state of its caches is unknown from here on.
        except Exception as error:
            failure = disk_error(error, self._path)
            self._fail(failure)
            if failure is error:
                raise
            raise failure from error
        finally:
            self._leave()

    def release(self) -> None:
        """Close the file after all present reads and writes; the next operation reopens it."""
        with self._turn:
            self._turn.wait_for(lambda: not self._users)
            if self._opened is None:
                return
            file, mode = self._opened.root.file, self._opened.mode
            self._opened = None
            try:
                if mode == "r+":
                    file.flush()  # where it fails, the file can still be detached
            except (OSError, RuntimeError) as error:
                self._life.error = failure = disk_error(error, self._path)
                detach(file)
                raise failure from error
            finally:
                self._let_go(file)

    def _let_go(self, file: h5py.File) -> None:
        """Close a file that has nothing to write, or whose writes lead nowhere."""
        try:
            file.close()
        except (OSError, RuntimeError) as error:
            # Neither it nor its descriptor may be touched again: HDF5 has freed half of it.
            keep_stuck(file, self._path)
            if self._life.error is None:
                self._life.error = failure = disk_error(error, self._path)
                raise failure from error

    def reader(self) -> FileHandle:
        """Another handle on this file, for reading."""
        return FileHandle.open(self._path, is_writable=False)

    def close(self) -> None:
        """Close for good."""
        with self._turn:
            was_sound = self._life.error is None
            self._life.is_closed = True
            try:
                self.release()
            except (OSError, RuntimeError):
                if was_sound:
                    raise

    def _enter_reading(self) -> Opened:
        if self._opened is not None and self._opened.mode == "r" and not self._users:
            lock(self._opened.root.file, self._path)
            if self._version != _version(self._path):  # a writer was here: HDF5's caches are old
                self.release()
        if self._opened is None:
            self._clear_readers(self._path, only_old=True)
            self._opened = Opened(open_file(self._path, "r")["/"], "r")
            self._version = _version(self._path)
        return self._opened

    def _enter_writing(self) -> Opened:
        if self._opened is None or self._opened.mode == "r":
            self._refuse_second(self._path)
            self._clear_readers(self._path)
            self._opened = Opened(open_file(self._path, "r+")["/"], "r+")
        return self._opened

    def _leave(self) -> None:
        with self._turn:
            self._users -= 1
            self._rest()
            self._turn.notify_all()

    def _rest(self) -> None:
        """Let others at the file after the last of several reads."""
        if self._opened is None or self._users or self._opened.mode != "r":
            return
        file = self._opened.root.file
        # HDF5 has one descriptor, and so one lock, for all that this process opened of a file.
        is_only_user = h5py.h5f.get_obj_count(file.id, h5py.h5f.OBJ_FILE) == 1
        if CAN_UNLOCK and is_only_user:
            unlock(file)
        else:
            self.release()

    @classmethod
    def _refuse_second(cls, path: Path) -> None:
        """HDF5 would let two writers of one process share the file."""
        for handle in list(cls._all):
            opened = handle._opened
            if opened and opened.mode == "r+" and opened.root and _is_same(handle._path, path):
                raise BusyError(
                    f"{path}: this process has the file open for writing. Close that store first."
                )

    @classmethod
    def _clear_readers(cls, path: Path, *, only_old: bool = False) -> None:
        for handle in list(cls._all):
            opened = handle._opened
            if opened and opened.mode == "r" and _is_same(handle._path, path):
                # From before a writer: HDF5 would share its caches with a reader that comes now.
                is_old = not handle._users and handle._version != _version(path)
                if is_old or not only_old:
                    handle.release()

    def _fail(self, error: BaseException) -> None:
        with self._turn:
            if self._life.error is None:
                self._life.error = error
                if self._opened is not None:
                    detach(self._opened.root.file)


class GroupHandle:
    """A group of a file that the user opened, and closes."""

    path: Path | None = None

    def __init__(self, group: h5py.Group) -> None:
        root, file = group["/"] if isinstance(group, h5py.File) else group, group.file
        self.location = str(file.filename) + ("" if root.name == "/" else f":{root.name}")
        self.is_writable = file.mode == "r+"
        self._life = _Life(self.location, is_writable=self.is_writable)
        self._opened = Opened(root, file.mode)

    @property
    def is_sound(self) -> bool:
        """Whether no write has failed."""
        return self._life.error is None

    @contextmanager
    def reading(self) -> Iterator[Opened]:
        """The user's group."""
        self._check(writing=False)
        yield self._opened

    @contextmanager
    def writing(self) -> Iterator[Opened]:
        """The user's group; any error of HDF5 is the last one through this store."""
        self._check(writing=True)
        try:
            yield self._opened
        except JaxstoreError:
            raise
        except Exception as error:  # as for FileHandle
            # Not detached: what else is in this file is the user's.
            self._life.error = failure = disk_error(error, Path(self._opened.root.file.filename))
            if failure is error:
                raise
            raise failure from error

    def release(self) -> None:
        """Flush."""
        if self.is_writable:
            with self.writing() as opened:
                opened.root.file.flush()

    def reader(self) -> GroupHandle:
        """Another handle on this group."""
        return GroupHandle(self._opened.root)

    def close(self) -> None:
        """Flush, unless the user closed the file first or a write had failed."""
        if not self._life.is_closed and self._life.error is None and self._opened.root:
            self.release()
        self._life.is_closed = True

    def _check(self, *, writing: bool) -> None:
        self._life.check(writing=writing)
        if not self._opened.root:
            raise BusyError(f"{self.location} was closed by its user. Open it and adopt it again.")


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False
