"""The writer thread: order, bounds, and errors as themselves."""

import threading
import time
import weakref

import pytest

from jaxstore.saving.writer import Writer


def test_items_are_handled_in_order_and_a_stopped_writer_starts_again():
    seen = []
    writer = Writer(seen.append)
    for i in range(100):
        writer.put(i, 1)
    writer.drain()
    assert seen == list(range(100))
    assert writer.submit(lambda: threading.current_thread().name).result() == "jaxstore-writer"
    for _ in range(2):
        writer.stop()
    assert "jaxstore-writer" not in {t.name for t in threading.enumerate()}
    writer.put(100, 1)
    writer.stop()
    assert seen[-1] == 100


def test_a_full_queue_holds_the_caller_up_and_a_large_item_waits_alone():
    gate, peak = threading.Event(), []
    writer = Writer(lambda item: (gate.wait(), peak.append(writer.waiting_bytes)), queue_bytes=10)
    writer.put("a", 4)
    writer.put("b", 6)
    thread = threading.Thread(target=writer.put, args=("large", 100))
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    assert writer.waiting_bytes == 10
    gate.set()
    thread.join()
    writer.stop()
    assert peak[-1] == 100


def test_the_handlers_own_exception_reaches_put_drain_and_error():
    failure = ZeroDivisionError("mine")

    def handle(item):
        if item == 3:
            raise failure

    writer = Writer(handle)

    def feed():
        for i in range(1000):
            writer.put(i, 1)
            time.sleep(0.001)

    with pytest.raises(ZeroDivisionError) as caught:
        feed()
    assert caught.value is failure
    with pytest.raises(ZeroDivisionError):
        writer.drain()
    writer.stop()
    assert writer.error is failure
    assert writer.is_dead


def test_a_failure_from_outside_leaves_what_is_queued_to_be_handled():
    seen, gate = [], threading.Event()
    writer = Writer(lambda item: (gate.wait(), seen.append(item)))
    for i in range(5):
        writer.put(i, 1)
    writer.fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        writer.put(5, 1)
    gate.set()
    writer.stop()
    assert seen == list(range(5))
    assert not writer.is_dead


def test_an_action_runs_after_all_items_and_its_error_is_kept():
    seen = []
    writer = Writer(seen.append)
    writer.put(1, 1)
    assert writer.submit(lambda: list(seen)).result() == [1]

    def fail():
        raise OSError("at the end")

    with pytest.raises(OSError, match="at the end"):
        writer.submit(fail).result()
    with pytest.raises(OSError, match="at the end"):
        writer.put(2, 1)
    assert writer.submit(lambda: "still").result() == "still"
    writer.stop()


class Owner:
    def __init__(self, seen, gate):
        self.seen, self.gate = seen, gate
        self.writer = Writer(self.handle, idle=self.rest, name="owned")

    def handle(self, item):
        self.gate.wait()
        self.seen.append(item)

    def rest(self):
        pass


def test_what_is_queued_is_handled_also_when_its_owner_is_gone_and_then_the_thread_ends():
    seen, gate = [], threading.Event()
    owner = Owner(seen, gate)
    for i in range(5):
        owner.writer.put(i, 1)
    reference = weakref.ref(owner)
    [thread] = [t for t in threading.enumerate() if t.name == "jaxstore-writer owned"]
    del owner
    gate.set()
    thread.join(30)
    assert not thread.is_alive()
    assert seen == [0, 1, 2, 3, 4]
    assert reference() is None
