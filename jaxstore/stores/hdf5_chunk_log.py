"""Where the chunks of a file lie, told by the process that writes it to those that read it.

Owned here: the file of lines beside an HDF5 file, its lock, and the order of lines and writes.
Which of its lines count is said by the record (`hdf5_record`), what reads by them is `hdf5_live`.

A line is JSON: `["name", [0, 3], 4096, 1000]` for a chunk that lies at byte 4096, and
`["name", [0, 3]]` or `["name"]` for a chunk, or all of an array, that is about to move. The second
kind is in the file before anything moves. So whoever reads a chunk first and finds no such line
after it, and the lock still held, has read it as it was.

`[null]` says that HDF5 is about to write what it keeps in memory, in place. Where it comes after
all lines that count, the writer was killed before that counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxstore.errors import FormatError
from jaxstore.stores.files import partial_beside
from jaxstore.stores.hdf5_chunks import Index

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: without locks nobody could tell whether the writer lives
    fcntl = None

Place = tuple[int, int]  # offset and number of bytes


class WriterGone(Exception):
    """The writer whose log this is has closed, sealed or died."""


def log_path(path: Path) -> Path:
    """Where the log of a file lies."""
    return path.with_name(path.name + ".chunks")


class ChunkLog:
    """The log of a file that this process writes, locked as long as it does.

    Raises:
        OSError: It cannot be written, or locks are not to be had.
    """

    def __init__(self, path: Path) -> None:
        if fcntl is None:
            raise OSError("no file locks here")
        self._path = log_path(path)
        self.nonce = uuid.uuid4().hex
        beside = partial_beside(str(self._path))
        self._file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self._close = weakref.finalize(self, os.close, self._file)
        try:
            # Locked before it has its name, so that no reader can be in the way.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lines = [_line(self.nonce)]
            self._known: set[tuple[str, Index]] = set()
            self.n_bytes = 0  # in the file
            self.flush()
            os.replace(beside, self._path)
        except BaseException:
            self._close()
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise

    def moving(self, name: str, index: Index | None) -> None:
        """Say that a chunk, or with None all of an array, may move, before it does."""
        if index is None:
            self._known = {key for key in self._known if key[0] != name}
            self._lines.append(_line(name))
        elif (name, index) in self._known:
            self._lines.append(_line(name, index))
        else:
            return
        self.flush()

    def flushing(self) -> None:
        """Say that HDF5 is about to flush, before it does."""
        self._lines.append(_line(None))
        self.flush()

    def placed(self, name: str, index: Index, *, offset: int, n_bytes: int) -> None:
        """Say where a chunk lies; in the file at the next `flush`."""
        self._known.add((name, index))
        self._lines.append(_line(name, index, offset, n_bytes))

    def flush(self) -> None:
        """Put all lines into the file."""
        data = memoryview("".join(self._lines).encode())
        self._lines.clear()
        while data:
            n_written = os.write(self._file, data)
            self.n_bytes += n_written
            data = data[n_written:]

    def end(self, *, is_kept: bool) -> None:
        """Give back the lock; the log goes with it, or is kept as a killed writer leaves it."""
        with contextlib.suppress(OSError):
            if not is_kept and os.path.samestat(os.stat(self._path), os.fstat(self._file)):
                self._path.unlink()
        with contextlib.suppress(OSError):
            # A child that was just forked may have the descriptor for a moment.
            assert fcntl is not None
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._close()


class ChunkIndex:
    """The log of another process, as far as it counts.

    Args:
        path: Of the file that the log belongs to.
        is_killed: Whether the writer was killed; else it has to live.

    Raises:
        WriterGone: There is none; or nobody writes it any more, or somebody writes another.
    """

    def __init__(self, path: Path, *, is_killed: bool = False) -> None:
        self._path = log_path(path)
        self._is_killed = is_killed
        try:
            self._file = os.open(log_path(path), os.O_RDONLY)
        except FileNotFoundError:
            raise WriterGone from None
        weakref.finalize(self, os.close, self._file)
        self._places: dict[str, dict[Index, Place]] = {}
        self.n_bytes = 0  # that count
        self.check()
        head = os.pread(self._file, 100, 0).partition(b"\n")[0]
        try:
            self.nonce = str(json.loads(head)[0])
        except ValueError as error:
            raise FormatError(f"{log_path(path)} does not begin as a log of chunks.") from error

    def check(self) -> None:
        """Raise WriterGone if nobody writes it any more."""
        assert fcntl is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            is_locked = True
        else:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            is_locked = False
        if is_locked == self._is_killed or not self._is_there():
            raise WriterGone

    def advance(self, n_bytes: int) -> None:
        """Take the lines up to here as those that count."""
        lines = self._lines(self.n_bytes, n_bytes)
        if self.n_bytes == 0:
            next(lines)  # the nonce
        for name, *rest in lines:
            chunks = self._places.setdefault(name, {})
            if len(rest) == 3:
                chunks[tuple(rest[0])] = (rest[1], rest[2])
            elif rest:
                chunks.pop(tuple(rest[0]), None)
            else:
                chunks.clear()
        self.n_bytes = n_bytes

    def is_torn(self) -> bool:
        """Whether a killed writer had HDF5 flush after what counts."""
        end = os.fstat(self._file).st_size
        return any(name is None for name, *_ in self._lines(self.n_bytes, end))

    def announced(self, name: str) -> set[Index | None]:
        """Chunks of an array, or None for all, that a killed writer moved after what counts."""
        end = os.fstat(self._file).st_size
        return {
            tuple(rest[0]) if rest else None
            for other, *rest in self._lines(self.n_bytes, end)
            if other == name and len(rest) < 2
        }

    def places(self, name: str) -> dict[Index, Place]:
        """Where the chunks of an array lie."""
        return self._places.get(name, {})

    def place(self, name: str, index: Index) -> Place | None:
        """Where a chunk lies, None if it was never written."""
        return self._places.get(name, {}).get(index)

    def moved(self, since: int) -> set[tuple[str, Index | None]]:
        """What may have moved since the log had so many bytes; as of now the writer lives."""
        self.check()
        end = os.fstat(self._file).st_size
        return {
            (name, tuple(rest[0]) if rest else None)
            for name, *rest in self._lines(since, end)
            if len(rest) < 2
        }

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _lines(self, start: int, stop: int) -> Iterator[list[Any]]:
        data = os.pread(self._file, stop - start, start)
        # The last line may be on its way; what it announces has not begun then.
        for line in data.split(b"\n")[:-1]:
            yield json.loads(line)


def _line(*parts: object) -> str:
    return json.dumps(parts, separators=(",", ":")) + "\n"
