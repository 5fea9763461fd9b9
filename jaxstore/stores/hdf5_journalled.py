"""An HDF5 file that is written in steps: a kill at any moment leaves it as after one of them.

Owned here: the bytes of the file as HDF5 sees them, the lock on it, and the step from one commit
to the next. What the journal says and how a kill is undone is `hdf5_journal`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from jaxstore.errors import BusyError
from jaxstore.stores.forked_child import let_go_in_child
from jaxstore.stores.hdf5_flags import SIGNATURE, without_flags
from jaxstore.stores.hdf5_journal import (
    TOUCH_S,
    Journal,
    epoch_of,
    journal_path,
    note_in_place,
    put_in_place,
    put_journal,
    read_journal,
    settle_journal,
    write_at,
)
from jaxstore.stores.hdf5_lock import lock_file
from jaxstore.stores.hdf5_overlay import Overlay
from jaxstore.stores.holder import Holder, subject


class JournalledFile:
    """The bytes of a file, for `h5py.File(fileobj)`; made by `open_journalled`.

    HDF5 calls it under h5py's lock, so one thread at a time. An error never goes back into HDF5,
    which would lose its errno, go on regardless, and fail again when the process ends. From the
    first error on, be it Ctrl-C, nothing more reaches the file; who calls HDF5 asks for `error`.
    """

    def __init__(self, path: Path, file: int, *, epoch: int, durable: bool) -> None:
        self.path = path
        self.epoch = epoch
        self._file = file
        self._durable = durable
        self._holder = Holder.of_this_process()
        status = os.fstat(file)
        self._mtime_ns = status.st_mtime_ns  # what the file gets in the end
        self._committed = self._length = status.st_size
        self._overlay = Overlay()
        self._at = 0
        self._touched_s = time.monotonic()
        self._error: BaseException | None = None
        self._is_committing = False
        let_go_in_child(self)
        self._put_journal()

    def __repr__(self) -> str:
        return str(self.path)

    # --- what HDF5 calls ---

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset, or to the end."""
        self._at = offset + (self._length if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        """The present offset."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Some bytes; h5py looks whether this is there, and calls `readinto`."""
        data = bytearray(max(0, self._length - self._at if size < 0 else size))
        return bytes(data[: self.readinto(data)])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer from here on; zeros beyond the end."""
        view = memoryview(buffer).cast("B")
        start, stop = self._at, self._at + len(view)
        self._at = stop
        found = b""
        try:
            found = os.pread(self._file, len(view), start)
        except BaseException as error:
            self._fail(error)
        view[: len(found)] = found
        view[len(found) :] = bytes(len(view) - len(found))
        for at, part in self._overlay.within(start, stop):
            view[at - start : at - start + len(part)] = part
        return len(view)

    def write(self, data: bytes | memoryview) -> int:
        """Append, or keep back what replaces bytes that count."""
        view = memoryview(data).cast("B")
        start = self._at
        self._at = start + len(view)
        self._length = max(self._length, self._at)
        n_kept = max(0, min(len(view), self._committed - start))
        try:
            if self._error is None:
                if n_kept:
                    self._keep(start, bytes(view[:n_kept]))
                for at in range(n_kept, len(view), 1 << 26):
                    self._touch()
                    write_at(self._file, view[at : at + (1 << 26)], start + at)
        except BaseException as error:
            self._fail(error)
        if self._error is not None:
            # HDF5 still has to find what it wrote, or it fails too.
            self._overlay.put(start, bytes(view))
        return len(view)

    def truncate(self, size: int) -> int:
        """Set the length; what counts is cut only at the commit."""
        if size == self._length:
            return size
        self._length = size
        try:
            self._overlay.cut(size)
            if self._error is None:
                self._touch()
                os.ftruncate(self._file, max(size, self._committed))
        except BaseException as error:
            self._fail(error)
        return size

    def flush(self) -> None:
        """Commit, if `committing` was called: HDF5 calls this when it has written all."""
        if self._is_committing and self._error is None:
            self._is_committing = False
            try:
                self._commit()
            except BaseException as error:
                self._fail(error)

    # --- what `results_hdf5_file` calls ---

    @property
    def error(self) -> BaseException | None:
        """The first one, None if there was none."""
        return self._error

    def committing(self, mtime_ns: int | None = None) -> None:
        """The next flush is a commit.

        Under h5py's lock as it runs, no other thread can change HDF5's caches in the midst of it.

        Args:
            mtime_ns: The time that the file shall have in the end, from now on.
        """
        self._is_committing = True
        self._mtime_ns = self._mtime_ns if mtime_ns is None else mtime_ns

    def new_time(self) -> int:
        """The present time, as precisely as the file system keeps it."""
        self._touch()
        now = time.time_ns()
        os.utime(self.path, ns=(now, now))
        return os.fstat(self._file).st_mtime_ns

    def close(self) -> None:
        """Let go of the file as it was at the last commit; HDF5 must have closed it."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        try:
            settle_journal(self.path)
        finally:
            os.close(file)

    def let_go(self) -> None:
        """In a forked child: the lock is the parent's."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _commit(self) -> None:
        writes = self._overlay.all()
        if not writes and self._length == self._committed:
            return
        if self._durable:
            os.fsync(self._file)
        self._put_journal(writes)  # the commit
        put_in_place(self._file, writes)
        if self._durable and writes:
            os.fsync(self._file)
        if writes:
            note_in_place(self.path)
        if self._length < self._committed:
            os.ftruncate(self._file, self._length)
        self._committed = self._length
        self._overlay = Overlay()

    def _put_journal(self, writes: list[tuple[int, bytes]] | None = None) -> None:
        journal = Journal(self._length, self.epoch, self._mtime_ns, writes or [], self._holder)
        put_journal(self.path, journal, durable=self._durable)
        self._touched_s = time.monotonic()

    def _touch(self) -> None:
        if time.monotonic() - self._touched_s > TOUCH_S:
            os.utime(journal_path(self.path))
            self._touched_s = time.monotonic()

    def _keep(self, start: int, data: bytes) -> None:
        self._overlay.put(start, without_flags(data) if self._is_superblock(start) else data)

    def _is_superblock(self, offset: int) -> bool:
        is_place = offset == 0 or (offset >= 512 and offset & (offset - 1) == 0)
        return is_place and os.pread(self._file, 8, offset) == SIGNATURE

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            if isinstance(error, OSError):
                error.filename = error.filename or str(self.path)


def open_journalled(path: Path, *, durable: bool) -> JournalledFile:
    """Lock a file for writing, and make it whole first if its writer was killed.

    Raises:
        BusyError: Another process has it open.
        FormatError: It has a journal, which is damaged.
    """
    file = lock_file(path, os.O_RDWR)
    if file is None:
        raise _busy(path)
    try:
        settle_journal(path)
        return JournalledFile(path, file, epoch=epoch_of(path), durable=durable)
    except BaseException:
        os.close(file)
        raise


def _busy(path: Path) -> BusyError:
    journal = read_journal(path)
    who = subject(journal.holder if journal else None, unknown="Another program")
    return BusyError(
        f"{path}: {who} has the file open. Try again when it has finished or closed it."
    )
