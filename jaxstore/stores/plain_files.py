"""Files of a store, read without leaving its folder.

Owned here: what is followed. A store may come from anybody: a link in it could make any file of
this machine pass as its data, and a pipe would let the reader wait for ever.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache

from jaxstore.errors import FormatError

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
        path = f"{self._root}/{key}"
        try:
            self._check_folder(os.path.dirname(key))
            if os.path.islink(path) if not hasattr(os, "O_NOFOLLOW") else False:
                raise self._link(key)
            file = os.open(path, _FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            if os.path.islink(path):
                raise self._link(key) from None
            raise
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise FormatError(f"{key!r} in {self._root} is no file. Remove it.")
            check_size(key, found.st_size, most_bytes, location=self._root)
            return _read_all(file, found.st_size)
        finally:
            os.close(file)

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


def _read_all(file: int, n_bytes: int) -> bytes:
    data = os.read(file, n_bytes)
    if len(data) == n_bytes:
        return data
    parts = [data]  # beyond 2 GiB, or cut short by a signal
    while part := os.read(file, 1 << 30):
        parts.append(part)
    return b"".join(parts)
