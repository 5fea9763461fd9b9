"""The writer thread: a queue bounded in bytes, and errors kept as themselves.

Owned here: the only thread of the saving wing. What it does with an item is its caller's.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from weakref import WeakMethod

QUEUE_BYTES = 256 * 2**20
IDLE_S = 1.0

Call = Callable[..., Any]

_IDLE = object()  # in place of an item


@dataclass(frozen=True, slots=True)
class Task:
    """An action in the queue, and the promise of its result."""

    action: Callable[[], Any]
    result: Future[Any]


class Writer:
    """Hands items to `handle`, one after the other, on a thread of its own.

    The thread starts with the first item and lives until `stop`; another item starts a new one.
    After `handle` or an action raised, items that are queued are dropped, and every later `put`
    and `drain` raises that same exception.

    Of an object whose method handles items only what is queued keeps hold, and the thread ends
    with it. Else the two would be a cycle, and what was saved in memory would stay until the
    garbage collector comes by, which counts objects and not their bytes.

    Args:
        handle: Called with each item.
        idle: Called once a second while nothing is queued; what it raises counts as of `handle`.
        queue_bytes: What may wait at most; a larger item waits alone.
        name: Of the thread.
    """

    def __init__(
        self,
        handle: Callable[[Any], None],
        *,
        idle: Callable[[], None] | None = None,
        queue_bytes: int = QUEUE_BYTES,
        name: str = "",
    ) -> None:
        self._handle = loosely(handle)
        self._idle = loosely(idle or (lambda: None))
        self._queue_bytes = queue_bytes
        self._name = f"jaxstore-writer {name}".strip()
        self._items: deque[tuple[Any, int, Call | None]] = deque()
        self._bytes = 0  # of what waits and of what is in hand
        self._is_busy = False
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._change = threading.Condition()  # guards all of the above, and error
        self.error: BaseException | None = None
        self.is_dead = False  # whether `handle` or an action raised

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
            self._add(item, n_bytes)

    def submit(self, action: Callable[[], Any]) -> Future[Any]:
        """Queue an action after all items, also after an error; returns at once.

        Whoever waits for the result may be interrupted by Ctrl-C, the action is not.
        """
        task = Task(action, Future())
        with self._change:
            self._add(task, 0)
        return task.result

    def drain(self) -> None:
        """Wait until everything queued was handled. Raises what `handle` raised."""
        with self._change:
            self._change.wait_for(lambda: self.error or not (self._items or self._is_busy))
            self._raise()

    def fail(self, error: BaseException) -> None:
        """Take no more items, for a reason from outside; what is queued is still handled."""
        with self._change:
            self.error = self.error or error
            self._change.notify_all()

    def stop(self) -> None:
        """End the thread when everything queued was handled. Raises nothing; `error` tells."""
        with self._change:
            thread, self._is_stopping = self._thread, True
            self._change.notify_all()
        if thread is not None:
            thread.join()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def _add(self, item: object, n_bytes: int) -> None:
        self._items.append((item, n_bytes, self._handle()))
        self._bytes += n_bytes
        self._is_stopping = False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                self._is_busy = False
                self._change.notify_all()
                is_idle = not self._change.wait_for(
                    lambda: self._items or self._is_stopping, IDLE_S
                )
                if not self._items and (not is_idle or self._handle() is None):
                    self._thread = None
                    return
                item, n_bytes, call = self._items.popleft() if self._items else (_IDLE, 0, None)
                self._is_busy = True
            self._work(item, call)
            item = call = None  # drop the references before waiting: blocks are large
            with self._change:
                self._bytes -= n_bytes

    def _work(self, item: Any, call: Call | None) -> None:
        try:
            if isinstance(item, Task):
                item.result.set_result(item.action())
            elif self.is_dead:
                return
            elif item is _IDLE:
                if (idle := self._idle()) is not None:
                    idle()
            elif call is not None:
                call(item)
        except BaseException as error:
            with self._change:
                self.error, self.is_dead = self.error or error, True
            if isinstance(item, Task):
                item.result.set_exception(error)


def loosely(call: Call) -> Callable[[], Call | None]:
    """What gives a function as it is; a method for as long as somebody has its object."""
    return WeakMethod(call) if inspect.ismethod(call) else lambda: call
