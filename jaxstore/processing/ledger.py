"""Which units are done: marks, set after the data of a unit is at rest.

Owned here: when marks are written. Each costs a flush, so those of units that end together go
together; what a kill repeats is what ended in that time.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict

from jaxstore.stores.results import DONE, ResultGroup

_EVERY_S = 0.2


class Ledger:
    """The marks of one writer; for several threads.

    Args:
        group: The result.
    """

    def __init__(self, group: ResultGroup) -> None:
        self._group = group
        self._lock = threading.Lock()  # guards all below, and the order of marks
        self._waiting: defaultdict[int, list[int]] = defaultdict(list)  # by mark
        self._marked_at = time.monotonic()

    def note(self, unit: int, mark: int = DONE) -> None:
        """A unit was written whole; its mark follows soon."""
        with self._lock:
            self._waiting[mark].append(unit)
            if time.monotonic() - self._marked_at >= _EVERY_S:
                self._flush()

    def flush(self) -> None:
        """Mark all units that were written."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        for mark, units in sorted(self._waiting.items()):
            self._group.mark(units, mark)
        self._waiting.clear()
        self._marked_at = time.monotonic()
