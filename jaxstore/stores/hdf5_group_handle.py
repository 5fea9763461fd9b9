"""A group of an HDF5 file that its user has opened: nothing here opens, locks or closes a file.

Owned here: the end of a handle after a failed write. Files of ours are `hdf5_handle`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from jaxstore.errors import BusyError, JaxstoreError
from jaxstore.stores.hdf5_file import disk_error
from jaxstore.stores.hdf5_opened import Life, Opened


class GroupHandle:
    """A group of a file that the user opened, and closes."""

    path: Path | None = None

    def __init__(self, group: h5py.Group) -> None:
        root = group["/"] if isinstance(group, h5py.File) else group
        file = group.file
        self.location = str(file.filename) + ("" if root.name == "/" else f":{root.name}")
        self.is_writable = file.mode == "r+"
        self._life = Life(self.location, is_writable=self.is_writable)
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
