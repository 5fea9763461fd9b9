"""Making what comes next while what came last is used, in a thread.

Owned here: the thread, its end, and the way of its errors. What is made is its caller's.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from jaxstore.loading.assembly import Timings


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing in a line: how the making of things ended."""

    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Line:
    """Between the two threads."""

    permits: threading.Semaphore  # one for each item that may be made and not yet taken
    items: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)


class Prefetch[T]:
    """An iterator whose items are made ahead by a thread of its own.

    Args:
        make: Gives a generator of items; it is run and closed in the thread.
        ahead: Items that are made and not yet taken at most, the one in the making included.
        timings: Gets the time for which the thread had to wait.
    """

    def __init__(self, make: Callable[[], Generator[T]], *, ahead: int, timings: Timings) -> None:
        self._line = _Line(threading.Semaphore(ahead))
        # The thread holds no reference to this object, so that it ends when nobody has it.
        thread = threading.Thread(
            target=_run,
            args=(make, self._line, timings),
            name="jaxstore-prefetch",
            daemon=True,  # at the exit of Python the finalizer ends it
        )
        self._close = weakref.finalize(self, _end, thread, self._line)
        thread.start()

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> T:
        if not self._close.alive:
            raise StopIteration
        item = self._line.items.get()
        if isinstance(item, _End):
            self.close()
            if item.error is not None:
                raise item.error
            raise StopIteration
        self._line.permits.release()
        made: T = item
        return made

    def close(self) -> None:
        """End the thread; what it made and nobody took is dropped."""
        self._close()


def _run(make: Callable[[], Generator[Any]], line: _Line, timings: Timings) -> None:
    error: BaseException | None = None
    made = make()
    try:
        while _may_go_on(line, timings):
            line.items.put(next(made))
    except StopIteration:
        pass
    except BaseException as caught:
        error = caught
    try:
        made.close()
    except BaseException as caught:
        error = error or caught
    line.items.put(_End(error))


def _may_go_on(line: _Line, timings: Timings) -> bool:
    began = time.perf_counter()
    line.permits.acquire()
    timings.blocked += time.perf_counter() - began
    return not line.stop.is_set()


def _end(thread: threading.Thread, line: _Line) -> None:
    line.stop.set()
    line.permits.release()
    if thread is not threading.current_thread():  # the last reference may go in the thread itself
        thread.join()
    while not line.items.empty():
        line.items.get_nowait()
