"""One pass over an epoch, batch by batch.

Owned here: what a loop over a loader holds, and that it is let go of however the loop ends.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator
from typing import Any, Self

from jaxstore.loading.batch import Batch
from jaxstore.loading.position import Position
from jaxstore.loading.prefetch import Prefetch
from jaxstore.loading.progress import Bar
from jaxstore.loading.statistics import Clock, EpochStatistics

Make = Callable[[Position, Clock], Generator[Batch]]


class EpochIterator:
    """The rest of an epoch from a position on.

    Args:
        make: Gives the batches.
        start: The first of them.
        n_batches: Of the epoch.
        prefetch: Batches made ahead by a thread; 0 makes them here.
        shows_progress: Whether to show a bar.
        before: Called before a batch is given.
        report: Is told where this is, and what it cost up to there.
    """

    def __init__(
        self,
        make: Make,
        start: Position,
        n_batches: int,
        *,
        prefetch: int,
        shows_progress: bool,
        before: Callable[[], None] | None,
        report: Callable[[Position, EpochStatistics], None] | None,
    ) -> None:
        self._position = start
        self._n_batches = n_batches
        self._before, self._report = before, report
        self._clock = Clock()
        self._began: float | None = None
        self._bar = Bar(
            is_shown=shows_progress, epoch=start.epoch, done=start.batch, total=n_batches
        )
        clock = self._clock
        self._batches: Any = (
            Prefetch(lambda: make(start, clock), ahead=prefetch, timings=clock.timings)
            if prefetch
            else make(start, clock)
        )
        self._finalizer = weakref.finalize(self, self._batches.close)

    def __iter__(self) -> Self:
        return self

    def __len__(self) -> int:
        return self._n_batches - self._position.batch

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        if self._began is None:
            self._began = asked
        try:
            if self._before is not None:
                self._before()
            batch: Batch = next(self._batches)
        except BaseException:
            self._tell(self._position)
            self.close()
            raise
        now = time.perf_counter()
        clock = self._clock
        clock.waited_s += now - asked
        clock.seconds = now - self._began
        if not clock.batches:
            clock.first_batch_s = now - asked
        clock.batches += 1
        self._position = Position(self._position.epoch, self._position.batch + 1)
        self._tell(self._position)
        self._bar.step(clock)
        return batch

    def close(self) -> None:
        """End the threads; batches that were given stay as they are."""
        self._bar.close()
        self._finalizer()

    def _tell(self, position: Position) -> None:
        if self._began is not None:
            self._clock.seconds = time.perf_counter() - self._began
        if self._report is not None:
            self._report(position, self._clock.statistics(position.epoch))
