"""Files of a store, read without leaving its folder.

Owned here: what is followed. A store may come from anybody: a link in it could make any file of
this machine pass as its data, and a pipe would let the reader wait for ever.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from jaxstore.errors import FormatError

Array = np.ndarray[Any, Any]

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe opens at once, and is refused then
    | getattr(os, "O_BINARY", 0)
)
ANY_BYTES = 2**63 - 1  # as a bound, none
_KEPT_FOLDERS = 4096


class PlainFiles:
    """Files below a folder, which itself may be reached over links."""

    def __init__(self, root: str) -> None:
        self._root = root
        # A folder is looked at once: a look takes as long as a fifth of opening a file.
        self._check_folder = lru_cache(_KEPT_FOLDERS)(self._look_at_folder)

    def read(self, key: str, most_bytes: int) -> bytes | None:
        """The file, None if there is none.

        Raises:
            FormatError: It or a folder on the way is a link, it is no file, or it is too large.
        """
        with self._opened(key) as found:
            if found is None:
                return None
            file, n_bytes = found
            check_size(key, n_bytes, most_bytes, location=self._root)
            return _read_all(file, n_bytes)

    def read_into(self, key: str, take: Callable[[int], Sequence[Array]]) -> int | None:
        """Read the file into memory that is there; fresh memory costs more than the reading.

        Args:
            key: Of the file.
            take: Gives contiguous bytes for as many as the file has, or raises.

        Returns:
            Bytes read, None if there is no file.

        Raises:
            FormatError: As for `read`; or the file was cut short meanwhile.
        """
        with self._opened(key) as found:
            if found is None:
                return None
            file, n_bytes = found
            parts = take(n_bytes)
            with io.FileIO(file, closefd=False) as reader:
                for part in parts:
                    _fill(reader, part, key=key, location=self._root)
            return n_bytes

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int] | None]:
        """The open file and its size, None if there is none."""
        file = self._open(key)
        if file is None:
            yield None
            return
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise FormatError(f"{key!r} in {self._root} is no file. Remove it.")
            yield file, found.st_size
        finally:
            os.close(file)

    def _open(self, key: str) -> int | None:
        path = f"{self._root}/{key}"
        try:
            self._check_folder(os.path.dirname(key))
            if not hasattr(os, "O_NOFOLLOW") and os.path.islink(path):
                raise self._link(key)
            return os.open(path, _FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if os.path.islink(path):
                raise self._link(key) from None
            raise

    def _look_at_folder(self, folder: str) -> None:
        if folder:
            self._check_folder(os.path.dirname(folder))
            if stat.S_ISLNK(os.lstat(f"{self._root}/{folder}").st_mode):
                raise self._link(folder)

    def _link(self, key: str) -> FormatError:
        return FormatError(
            f"{key!r} in {self._root} is a link to another place, which is not followed. "
            "Put what it leads to in its place."
        )


def check_size(key: str, n_bytes: int, most_bytes: int, *, location: str) -> None:
    """Refuse an object that is larger than what it should hold."""
    if n_bytes > most_bytes:
        raise FormatError(
            f"{key!r} in {location} has {n_bytes:,} bytes, it should have {most_bytes:,} at most. "
            "It is damaged, or no file of this store."
        )


def check_exact(key: str, n_bytes: int, parts: Sequence[Array], *, location: str) -> None:
    """Refuse an object of another size than the parts that it is to fill."""
    wanted = sum(part.nbytes for part in parts)
    if n_bytes != wanted:
        raise FormatError(
            f"{key!r} in {location} has {n_bytes:,} bytes, it should have {wanted:,}. It is "
            "damaged, or no file of this store."
        )


def split_into(key: str, data: Array, parts: Sequence[Array], *, location: str) -> None:
    """Copy an object into parts that have its size together."""
    check_exact(key, data.nbytes, parts, location=location)
    at = 0
    for part in parts:
        part[:] = data[at : at + part.nbytes]
        at += part.nbytes


def _read_all(file: int, n_bytes: int) -> bytes:
    data = os.read(file, n_bytes)
    if len(data) == n_bytes:
        return data
    parts = [data]  # beyond 2 GiB, or cut short by a signal
    while part := os.read(file, 1 << 30):
        parts.append(part)
    return b"".join(parts)


def _fill(reader: io.FileIO, part: Array, *, key: str, location: str) -> None:
    at = 0
    while at < part.nbytes:  # beyond 2 GiB, or cut short by a signal
        n_read = reader.readinto(part[at:])
        if not n_read:
            raise FormatError(f"{key!r} in {location} was cut short while it was read.")
        at += n_read
