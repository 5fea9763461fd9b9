"""Runs that nobody ended before the interpreter does.

Owned here: their end. What came of them is committed, and they are marked as interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
from typing import Protocol
from weakref import WeakSet


class Closable(Protocol):
    """What can be ended, any number of times."""

    def close(self) -> None:
        """End it."""
        ...


_open: WeakSet[Closable] = WeakSet()


def close_at_exit(run: Closable) -> None:
    """Close it when the interpreter ends, if it is still there by then."""
    _open.add(run)
    # Exit handlers run in reverse: after this, that of the library that the store uses.
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def _close_all() -> None:
    for run in list(_open):
        with contextlib.suppress(BaseException):
            run.close()
