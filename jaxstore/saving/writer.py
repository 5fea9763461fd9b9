"""The writer thread: a queue bounded in bytes, and errors kept as themselves.

Owned here: the only thread of the saving wing. What it does with an item is its caller's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

QUEUE_BYTES = 256 * 2**20


class Writer:
    """Hands items to `handle`, one after the other, on a thread of its own.

    After `handle` raised, it is called no more: what is queued is dropped, and every later
    `put`, `drain` and `close` raises that same exception.

    Args:
        handle: Called with each item.
        queue_bytes: What may wait at most; a larger item waits alone.
        name: Of the thread.
    """

    def __init__(
        self, handle: Callable[[object], None], *, queue_bytes: int = QUEUE_BYTES, name: str = ""
    ) -> None:
        self._handle = handle
        self._queue_bytes = queue_bytes
        self._name = f"jaxstore-writer {name}".strip()
        self._items: deque[tuple[object, int]] = deque()
        self._bytes = 0  # of what waits and of what is in hand
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._last: Callable[[], None] = lambda: None
        self._change = threading.Condition()  # guards all of the above, and error
        self.error: BaseException | None = None
        self.is_dead = False  # whether `handle` raised

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are queued or being written."""
        return self._bytes

    def put(self, item: object, n_bytes: int) -> None:
        """Queue an item; waits while the queue is full. Raises what `handle` raised."""
        with self._change:
            # The first item of an empty queue always fits.
            self._change.wait_for(
                lambda: self.error or not self._bytes or self._bytes + n_bytes <= self._queue_bytes
            )
            self._raise()
            self._start()
            self._items.append((item, n_bytes))
            self._bytes += n_bytes
            self._change.notify_all()

    def drain(self) -> None:
        """Wait until everything queued was handled. Raises what `handle` raised."""
        with self._change:
            self._change.wait_for(lambda: self.error or not self._bytes)
            self._raise()

    def fail(self, error: BaseException) -> None:
        """Take no more items, for a reason from outside; what is queued is still handled."""
        with self._change:
            self.error = self.error or error
            self._change.notify_all()

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """Handle what is queued, then `last`, then end the thread; called again, wait for that.

        Never raises what `handle` or `last` raised: `error` says it. Both run on the thread, so a
        Ctrl-C while this waits does not leave them half done.
        """
        with self._change:
            if not self._is_closing:
                self._is_closing, self._last = True, last
                self._start()
                self._change.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._items or self._is_closing)
                if not self._items:
                    break
                item, n_bytes = self._items.popleft()
            self._attempt(partial(self._handle, item))
            item = None  # drop the reference before waiting: blocks are large
            with self._change:
                self._bytes -= n_bytes
                self._change.notify_all()
        self._attempt(self._last)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            with self._change:
                self.error, self.is_dead = self.error or error, True
                self._items.clear()
