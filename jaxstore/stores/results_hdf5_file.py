"""Access to an HDF5 file that results lie in: as its writer, as a reader, or as its user opened it.

Owned here: one open file for all writers in a process, the commit with the time that others see,
and the end after a failed write. The bytes on the disk are `hdf5_journalled`; where results lie in
the file is `results_hdf5_group`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import h5py

from jaxstore.errors import BusyError, FormatError, JaxstoreError, MissingError
from jaxstore.stores.files import remove_partials
from jaxstore.stores.hdf5_file import check_plain, create_file, sync_file
from jaxstore.stores.hdf5_group_handle import GroupHandle
from jaxstore.stores.hdf5_handle import FileHandle
from jaxstore.stores.hdf5_journal import epoch_in, write_epoch
from jaxstore.stores.hdf5_journalled import open_journalled
from jaxstore.stores.hdf5_mending import mend, settle
from jaxstore.stores.hdf5_opened import Opened


class Access(Protocol):
    """A file, or a group that its user opened."""

    location: str
    path: Path | None  # of the file, if it is ours to open

    def reading(self) -> Any:
        """Context manager for one read; gives `Opened`."""
        ...

    def writing(self) -> Any:
        """Context manager for one write, which counts after `commit`; gives `Opened`."""
        ...

    def commit(self) -> None:
        """All that was written outlives a kill from here on."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class _SharedFile:
    """A file that this process writes; closed after the last who uses it."""

    # Guards `open_now`, and the counts of all files.
    turn = threading.Condition(threading.RLock())
    open_now: ClassVar[dict[Path, _SharedFile]] = {}

    def __init__(self, path: Path, *, durable: bool, tells_epoch: bool) -> None:
        self.raw = open_journalled(path, durable=durable)
        self.claims: set[str] = set()
        self.tells_epoch = tells_epoch
        try:
            self.opened = Opened(h5py.File(self.raw, "r+")["/"], "r+")
        except (OSError, RuntimeError, ValueError) as error:
            self.raw.close()
            raise FormatError(f"{path} is not a readable HDF5 file ({error})") from error
        self.path = path
        self.n_busy = 0  # reads and writes that run now
        self.failure: BaseException | None = None
        self.has_committed = False

    @contextlib.contextmanager
    def using(self, *, writing: bool) -> Iterator[Opened]:
        """The file for one read or write."""
        with self.turn:
            if self.failure is not None:
                raise BusyError(
                    f"{self.path}: an earlier write failed ({self.failure}). Close this result "
                    "and open it again; what was marked is there."
                )
            self.n_busy += 1
        try:
            yield self.opened
        except JaxstoreError:
            raise
        except BaseException as error:
            if writing:  # the state of HDF5's caches is unknown from here on
                self.failure = self.raw.error or error
            if self.raw.error is not None and self.raw.error is not error:
                raise self.raw.error from error
            raise
        finally:
            with self.turn:
                self.n_busy -= 1
                self.turn.notify_all()
        if self.raw.error is not None:
            self.failure = self.raw.error
            raise self.raw.error

    def commit(self, *, is_last: bool = False) -> None:
        """Flush, as one step."""
        mtime_ns = None
        with self.using(writing=True) as opened:
            if self.tells_epoch and (is_last or not self.has_committed):
                mtime_ns = self.raw.new_time()
                write_epoch(opened.root, epoch=self.raw.epoch, mtime_ns=mtime_ns)
            self.raw.committing(mtime_ns)
            opened.root.file.flush()
            self.has_committed = True

    def close(self) -> None:
        """End; the lock is free after it."""
        try:
            if self.failure is None and self.has_committed and self.tells_epoch:
                self.commit(is_last=True)
        finally:
            try:
                # What it still writes is not committed, and nothing new.
                self.opened.root.file.close()
            finally:
                self.raw.close()


class WriterAccess:
    """A file for writing, locked from here on until `close`.

    Args:
        path: Of the file.
        claim: What of it is written; others of this process write other things in it.
        durable: Whether a commit waits for the disk.
        tells_epoch: Whether it says in itself when others changed it last.

    Raises:
        MissingError: There is no such file.
        BusyError: Another process has it open; or this one, with the same claim.
    """

    def __init__(self, path: Path, *, claim: str, durable: bool, tells_epoch: bool = True) -> None:
        self.location = str(path)
        self.path: Path | None = path
        self._key, self._claim = path.resolve(), claim
        with _SharedFile.turn:
            shared = _SharedFile.open_now.get(self._key)
            if shared is None:
                if not path.exists():
                    raise MissingError(f"There is no file {path}. Check the path.")
                settle(path)
                mend(path, durable=durable)
                shared = _SharedFile(path, durable=durable, tells_epoch=tells_epoch)
                _SharedFile.open_now[self._key] = shared
            if claim in shared.claims:
                raise BusyError(
                    f"{path}: this process already writes {claim!r} in it. Close that first."
                )
            shared.claims.add(claim)
        self._shared: _SharedFile | None = shared

    @classmethod
    def create(
        cls, path: Path, *, claim: str, durable: bool, tells_epoch: bool = True
    ) -> WriterAccess:
        """As the class; the file is made if it is not there."""
        if not os.path.lexists(path):
            remove_partials(path)
            mend(path, durable=durable)  # what is left of a file that was never there
            create_file(path, durable=durable).close()
        return cls(path, claim=claim, durable=durable, tells_epoch=tells_epoch)

    def reading(self) -> contextlib.AbstractContextManager[Opened]:
        """The file for one read."""
        return self._file().using(writing=False)

    def writing(self) -> contextlib.AbstractContextManager[Opened]:
        """The file for one write; any error of HDF5 in it is the last one on this file."""
        return self._file().using(writing=True)

    def commit(self) -> None:
        """Commit what all of this process wrote to the file."""
        self._file().commit()

    def close(self) -> None:
        """Let go; the last one ends the file."""
        with _SharedFile.turn:
            shared, self._shared = self._shared, None
            if shared is None:
                return
            shared.claims.remove(self._claim)
            if shared.claims:
                return
            _SharedFile.turn.wait_for(lambda: not shared.n_busy)
            try:
                shared.close()
            finally:
                del _SharedFile.open_now[self._key]

    def _file(self) -> _SharedFile:
        if self._shared is None:
            raise BusyError(f"{self.location} is closed. Open it again.")
        return self._shared


class ReaderAccess:
    """A file for reading, locked only while it is read; through its writer, if that is here."""

    def __init__(self, path: Path) -> None:
        self.location = str(path)
        self.path: Path | None = path
        self._handle: FileHandle | None = None
        self._is_closed = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[Opened]:
        """The file for one read."""
        assert self.path is not None
        if self._is_closed:
            raise BusyError(f"{self.location} is closed. Open it again.")
        with contextlib.ExitStack() as stack:
            with _SharedFile.turn:
                shared = _SharedFile.open_now.get(self.path.resolve())
                reading = shared.using(writing=False) if shared else self._plain().reading()
                opened = stack.enter_context(reading)
            yield opened

    def writing(self) -> Any:
        """Refuse."""
        raise BusyError(f"{self.location} is open for reading. Open it with role='owner'.")

    def commit(self) -> None:
        """Refuse."""
        self.writing()

    def close(self) -> None:
        """Let go."""
        self._is_closed = True
        if self._handle is not None:
            self._handle.close()

    def _plain(self) -> FileHandle:
        assert self.path is not None
        if self._handle is None:
            settle(self.path)
            self._handle = FileHandle.open(self.path, is_writable=False)
        return self._handle


class UserAccess:
    """A group that its user has opened, and closes: without a journal."""

    path: Path | None = None

    _claims: ClassVar[set[tuple[str, str]]] = set()  # of all files, with their names

    def __init__(self, group: h5py.Group, *, claim: str | None, durable: bool) -> None:
        if durable:
            check_plain(group.file)
        self._handle = GroupHandle(group)
        self._durable = durable
        self.location = self._handle.location
        self._file = Path(group.file.filename)
        self._claim: tuple[str, str] | None = None
        self._epoch: int | None = None
        if claim is not None:
            self._begin(group.file, (self.location, claim))

    def reading(self) -> contextlib.AbstractContextManager[Opened]:
        """The user's group."""
        return self._handle.reading()

    def writing(self) -> contextlib.AbstractContextManager[Opened]:
        """The user's group; any error of HDF5 in it is the last one through this access."""
        return self._handle.writing()

    def commit(self) -> None:
        """Flush."""
        with self._handle.writing() as opened:
            file, now = opened.root.file, time.time_ns()
            if self._epoch is not None:
                write_epoch(file["/"], epoch=self._epoch, mtime_ns=now)
            file.flush()
            if self._durable:
                sync_file(file)
            if self._epoch is not None:
                os.utime(self._file, ns=(now, now))

    def close(self) -> None:
        """Leave it open."""
        self._handle.close()
        if self._claim is not None:
            self._claims.discard(self._claim)

    def _begin(self, file: h5py.File, claim: tuple[str, str]) -> None:
        if not self._handle.is_writable:
            raise BusyError(
                f"{self.location} is open for reading. Open it with h5py.File(path, 'r+')."
            )
        if claim in self._claims:
            raise BusyError(f"{':/'.join(claim)} has an owner in this process. Close it first.")
        self._claims.add(claim)
        self._claim = claim
        if file.driver == "sec2":
            file.flush()
            self._epoch = epoch_in(file["/"], mtime_ns=os.stat(self._file).st_mtime_ns)
