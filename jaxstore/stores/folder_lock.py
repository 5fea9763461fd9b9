"""A folder that one process has for itself, by the operating system's lock on it.

Owned here: taking and freeing the lock. The kernel frees it when the process dies, and no file is
made for it, so that nothing stale is ever left.
"""

from __future__ import annotations

import os
import weakref
from types import ModuleType

from jaxstore.stores.files import vanished
from jaxstore.stores.forked_child import let_go_in_child

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class FolderLock:
    """The lock on a folder, held from the start until `free`; where there are none, nothing.

    Raises:
        BlockingIOError: It is held, in this process or another.
        MissingError: There is no such folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file = _locked(folder)
        if self._file is not None:
            let_go_in_child(self)
        self._close = weakref.finalize(self, _close, self._file)

    @property
    def is_held(self) -> bool:
        """Whether it was taken, is not given back, and this is no forked child."""
        return self._close.alive

    def check(self) -> None:
        """Refuse to go on in a folder that was removed, or removed and made again by others.

        Raises:
            MissingError: It is so.
        """
        try:
            found = os.stat(self._folder)
        except FileNotFoundError:
            raise vanished(self._folder) from None
        if self._file is not None and not os.path.samestat(found, os.fstat(self._file)):
            raise vanished(self._folder)

    def free(self) -> None:
        """Give the folder back."""
        if self._file is not None and self.is_held:
            assert fcntl is not None
            # A child that is just being started may have the descriptor for a moment.
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._close()

    def let_go(self) -> None:
        """In a forked child: the lock is the parent's."""
        self._close()


def _locked(folder: str) -> int | None:
    """A descriptor that holds the lock, None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        file = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        raise vanished(folder) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError:  # some network file systems
        os.close(file)
        return None
    return file


def _close(file: int | None) -> None:
    if file is not None:
        os.close(file)
