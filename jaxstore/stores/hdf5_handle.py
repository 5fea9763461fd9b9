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
from pathlib import Path
from typing import ClassVar

import h5py

from jaxstore.errors import BusyError, JaxstoreError
from jaxstore.stores.hdf5_file import (
    create_file,
    detach,
    disk_error,
    is_let,
    lock,
    open_file,
    unlock,
)
from jaxstore.stores.hdf5_lock import CAN_LOCK
from jaxstore.stores.hdf5_opened import Life, Opened
from jaxstore.stores.hdf5_stuck import keep_stuck

# Of a reader with a writer of its process that waits for other readers.
_PATIENCE_S = 10.0


class FileHandle:
    """A file that is ours to open and to close."""

    # Guards opening, closing and the counts of users of all handles: readers of a file have to
    # make way for a writer of this process, since HDF5 shares one open file between them.
    _turn = threading.Condition(threading.RLock())
    _all: ClassVar[weakref.WeakSet[FileHandle]] = weakref.WeakSet()
    _wanted: ClassVar[list[Path]] = []  # files that a writer waits for

    def __init__(self, path: Path, opened: Opened, *, is_writable: bool) -> None:
        self.location = str(path)
        self.path: Path | None = path
        self._path = path
        self.is_writable = is_writable
        self._life = Life(self.location, is_writable=is_writable)
        self._users = 0
        self._opened: Opened | None = opened
        self._version = _version(path)
        self._all.add(self)
        with self._turn:
            self._rest()

    @classmethod
    def create(cls, path: Path, *, durable: bool) -> FileHandle:
        """Make a new file, never touching what is there."""
        file = create_file(path, durable=durable)
        return cls(path, Opened(file["/"], "r+"), is_writable=True)

    @classmethod
    def open(cls, path: Path, *, is_writable: bool) -> FileHandle:
        """Open a file that is there; for writing, it is locked from here on."""
        with cls._turn:
            opened = cls._open_to_write(path) if is_writable else cls._open_to_read(path)
            return cls(path, opened, is_writable=is_writable)

    @property
    def is_sound(self) -> bool:
        """Whether no write has failed."""
        return self._life.error is None

    @contextmanager
    def reading(self) -> Iterator[Opened]:
        """The file for one read, as it lies on disk now."""
        with self._turn:
            self._let_writer_first()
            self._life.check(writing=False)
            opened = self._enter_reading()
            self._users += 1
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
            file, mode = self._opened.file, self._opened.mode
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

    def _let_writer_first(self) -> None:
        """Wait while a writer of this process does: by chance, readers never all leave at once."""
        if self._opened is None or self._opened.mode == "r":
            # Not for ever: a thread that reads through another handle would wait for itself.
            self._turn.wait_for(
                lambda: not any(_is_same(path, self._path) for path in self._wanted), _PATIENCE_S
            )

    def _enter_reading(self) -> Opened:
        if self._opened is not None and self._opened.mode == "r" and not self._users:
            lock(self._opened.file, self._path)
            if self._version != _version(self._path):  # a writer was here: HDF5's caches are old
                self.release()
        if self._opened is None:
            self._opened = self._open_to_read(self._path)
            self._version = _version(self._path)
        return self._opened

    def _enter_writing(self) -> Opened:
        if self._opened is None or self._opened.mode == "r":
            self._opened = self._open_to_write(self._path)
        return self._opened

    @classmethod
    def _open_to_read(cls, path: Path) -> Opened:
        """Open and lock a file, with caches of HDF5 that are of now."""
        while True:
            found = _version(path)
            for handle in cls._readers_of(path):
                # HDF5 shares its caches between all who have a file open, those at rest as well.
                if not handle._users and handle._version != found:
                    handle.release()
            opened = Opened(open_file(path, "r")["/"], "r")
            if opened.file.mode != "r":  # a writer of this process has the caches, and the lock
                return opened
            try:
                # It shares the descriptor too, of which a reader at rest has given the lock back.
                lock(opened.file, path)
                if _version(path) == found:
                    return opened
            except BaseException:
                opened.file.close()
                raise
            opened.file.close()

    @classmethod
    def _open_to_write(cls, path: Path) -> Opened:
        """Open a file once no reader of this process has it open."""
        cls._refuse_second(path)
        cls._wanted.append(path)
        try:
            # While it waits for one of them, others may open the file again.
            while readers := cls._readers_of(path):
                readers[0].release()
            cls._refuse_second(path)
            return Opened(open_file(path, "r+")["/"], "r+")
        finally:
            cls._wanted.remove(path)
            cls._turn.notify_all()

    def _leave(self) -> None:
        with self._turn:
            self._users -= 1
            self._rest()
            self._turn.notify_all()

    def _rest(self) -> None:
        """Let others at the file after the last of several reads."""
        if self._opened is None or self._users or self._opened.mode != "r":
            return
        file = self._opened.file
        # HDF5 has one descriptor, and so one lock, for all that this process opened of a file; and
        # it may write, when closed, one that a writer of this process had open too.
        n_open = h5py.h5f.get_obj_count(file.id, h5py.h5f.OBJ_FILE)
        readers = [self] if n_open == 1 else self._readers_of(self._path)
        if not CAN_LOCK or n_open != len(readers) or file.mode != "r":
            if file.mode == "r" and is_let(file) and not any(r._users for r in readers):
                unlock(file)  # whoever stays would keep a lock that nobody wants
            self.release()
        elif not any(reader._users for reader in readers):
            unlock(file)

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
    def _readers_of(cls, path: Path) -> list[FileHandle]:
        return [
            handle
            for handle in list(cls._all)
            if handle._opened is not None
            and handle._opened.mode == "r"
            and _is_same(handle._path, path)
        ]

    def _fail(self, error: BaseException) -> None:
        with self._turn:
            if self._life.error is None:
                self._life.error = error
                if self._opened is not None:
                    detach(self._opened.file)


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    # A writer of results gives a file its former time of change back, which this one shows.
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False
