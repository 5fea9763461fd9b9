"""Ctrl-C where Python hears it late, or hears it and loses it.

Owned here: how a callback, and a loop of the host, learn of a Ctrl-C. Python runs its handler on
the main thread only, at the next line of Python there. While a program runs on several devices the
main thread waits inside the runtime and executes no such line, so the interrupt would be heard when
the program has ended. And where that line is one of a hook of the garbage collector, of which JAX
has one, Python prints the KeyboardInterrupt and goes on: while JAX traces and compiles, one in
twenty or thirty is lost so. The operating system's handler, however, runs at once and writes a byte
to the wakeup descriptor of the `signal` module. Callbacks look there; one that finds the byte
raises, which stops the program, and Python's own handler then raises KeyboardInterrupt in the main
thread as ever. Loops look there for one that was lost.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()  # guards the two below
_listeners = 0
_pipe: tuple[int, int] | None = None


class Listener:
    """Notices Ctrl-C in callbacks between `start` and `stop`; both may be called again.

    Does nothing off the main thread, nor where another library, such as an event loop, has the
    wakeup descriptor: Ctrl-C is then heard when the program returns.
    """

    def __init__(self) -> None:
        self._is_on = False

    def start(self) -> None:
        """Begin to notice; what came before is forgotten."""
        global _listeners, _pipe
        with _lock:
            if not self._is_on:
                self._is_on = True
                _listeners += 1
                if _pipe is None and threading.current_thread() is threading.main_thread():
                    _pipe = _take_descriptor()
            _drain()

    def stop(self) -> None:
        """The last listener to stop gives the descriptor back."""
        global _listeners, _pipe
        with _lock:
            _listeners -= self._is_on
            self._is_on = False
            is_main = threading.current_thread() is threading.main_thread()
            if _listeners or _pipe is None or not is_main:
                return
            now = signal.set_wakeup_fd(-1)
            if now not in (-1, _pipe[1]):  # somebody took it over meanwhile; theirs stays
                signal.set_wakeup_fd(now, warn_on_full_buffer=False)
            for descriptor in _pipe:
                os.close(descriptor)
            _pipe = None


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C came since the last look."""
    with _lock:
        arrived = _drain()
    if signal.SIGINT in arrived and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[None]:
    """A block that no Ctrl-C gets lost in: it leaves as KeyboardInterrupt, at its end at last."""
    listener = Listener()
    listener.start()
    try:
        yield
        check_lost()
    finally:
        listener.stop()


def check_lost() -> None:
    """Raise on the main thread, if Ctrl-C came and the KeyboardInterrupt got nowhere.

    Another handler than Python's own decides for itself what Ctrl-C does.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        check()


def _take_descriptor() -> tuple[int, int] | None:
    read, write = os.pipe()
    for descriptor in (read, write):
        os.set_blocking(descriptor, False)
    other = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    if other == -1:
        return read, write
    signal.set_wakeup_fd(other, warn_on_full_buffer=False)
    os.close(read)
    os.close(write)
    return None


def _drain() -> bytes:
    try:
        return b"" if _pipe is None else os.read(_pipe[0], 4096)
    except BlockingIOError:
        return b""
