"""A thread that makes things ahead: how many, how it ends, and where its errors go."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from jaxstore.loading.assembly import Timings
from jaxstore.loading.prefetch import Prefetch


class Counted:
    """A generator that says how far it is and whether it was closed."""

    def __init__(self, n, error=None):
        self.n, self.error = n, error
        self.made = 0
        self.is_closed = threading.Event()
        self.has_made = threading.Condition()

    def __call__(self):
        try:
            for i in range(self.n):
                with self.has_made:
                    self.made += 1
                    self.has_made.notify_all()
                yield i
            if self.error:
                raise self.error
        finally:
            self.is_closed.set()

    def wait_for(self, n):
        with self.has_made:
            assert self.has_made.wait_for(lambda: self.made >= n, timeout=10)


def threads():
    return [t for t in threading.enumerate() if t.name == "jaxstore-prefetch"]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_so_many_are_made_ahead_and_no_more(ahead):
    made = Counted(100)
    items = Prefetch(made, ahead=ahead, timings=Timings())
    made.wait_for(ahead)
    assert made.made == ahead
    assert [next(items), next(items)] == [0, 1]
    made.wait_for(ahead + 2)
    assert made.made == ahead + 2
    items.close()


def test_all_come_in_order_and_the_thread_ends():
    made = Counted(50)
    items = Prefetch(made, ahead=3, timings=Timings())
    assert list(items) == list(range(50))
    assert made.is_closed.is_set()
    assert not threads()
    assert list(items) == []


def test_an_error_comes_behind_what_was_made_before_it():
    error = OSError(5, "Input/output error")
    items = Prefetch(Counted(3, error), ahead=2, timings=Timings())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="Input/output error") as caught:
        next(items)
    assert caught.value is error
    assert not threads()


def test_an_iterator_that_nobody_has_any_more_ends_its_thread():
    made = Counted(100)
    items = Prefetch(made, ahead=2, timings=Timings())
    next(items)
    del items
    gc.collect()
    assert made.is_closed.wait(10)
    assert not threads()


def test_closing_twice_is_harmless_and_nothing_comes_after():
    items = Prefetch(Counted(10), ahead=2, timings=Timings())
    items.close()
    items.close()
    with pytest.raises(StopIteration):
        next(items)


def test_python_ends_with_a_loop_that_was_left():
    program = (
        "import numpy as np, jaxstore as js;"
        "loader = js.Loader({'x': np.zeros((1000, 3), 'f4')}, batch_size=10);"
        "batches = iter(loader); next(batches); print('left')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")
