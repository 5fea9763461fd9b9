"""A child that this process forked: what it must not keep of its parent.

Owned here: that each child lets go at once. A lock of the operating system is shared with whoever
inherits its descriptor, so that a child would hold it on when its parent is killed.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from functools import cache
from typing import Protocol


class Held(Protocol):
    """Something that is this process's alone."""

    def let_go(self) -> None:
        """Give it up, in a forked child."""
        ...


_held: weakref.WeakSet[Held] = weakref.WeakSet()


def let_go_in_child(held: Held) -> None:
    """See to it that a forked child lets go of this, as long as somebody has it."""
    _register()
    _held.add(held)


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for held in list(_held):
        with contextlib.suppress(OSError):
            held.let_go()
