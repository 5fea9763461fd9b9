"""A result's owner while others work: it tells that it lives.

Owned here: the thread that does so, since the owner itself may be computing, or waiting for others
in a call that lets nothing else happen.
"""

from __future__ import annotations

import threading
from typing import Self

from jaxstore.stores.results import ResultGroup

_EVERY_S = 1.0


class Keeper:
    """Calls `keep` of a result about once a second; a context manager.

    Args:
        owner: The result; None for nothing to do.
    """

    def __init__(self, owner: ResultGroup | None) -> None:
        self._owner = owner
        self._is_over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="jaxstore-keeper", daemon=True)

    def __enter__(self) -> Self:
        if self._owner is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        if self._owner is not None:
            self._thread.join()

    def check(self) -> None:
        """Say what went wrong.

        Raises:
            BusyError: Another owner took over.
        """
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        assert self._owner is not None
        while not self._is_over.wait(_EVERY_S):
            try:
                self._owner.keep()
            except Exception as error:  # for the thread that waits for the work
                self._failure = error
                return
