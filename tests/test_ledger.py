from __future__ import annotations

import threading
from types import SimpleNamespace

from jaxstore.processing import ledger
from jaxstore.processing.ledger import Ledger
from jaxstore.stores.results import DONE, FAILED


class Marks:
    """A result that notes what is marked, and how often."""

    def __init__(self):
        self.calls = []

    def mark(self, units, value):
        self.calls.append((sorted(units), value))


def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(ledger, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_marks_of_units_that_end_together_go_together(monkeypatch):
    now, marks = clock(monkeypatch), Marks()
    book = Ledger(marks)
    book.note(3)
    book.note(1)
    assert marks.calls == []
    now[0] = 0.3
    book.note(2, FAILED)
    assert marks.calls == [([1, 3], DONE), ([2], FAILED)]
    book.note(4)
    book.flush()
    book.flush()
    assert marks.calls[2:] == [([4], DONE)]


def test_no_unit_is_forgotten_by_threads():
    marks = Marks()
    book = Ledger(marks)

    def work(first):
        for unit in range(first, 400, 4):
            book.note(unit)
            if unit % 50 == 0:
                book.flush()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book.flush()
    assert sorted(unit for units, _ in marks.calls for unit in units) == list(range(400))
