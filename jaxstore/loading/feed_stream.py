"""Batches by their number in the endless stream, epoch after epoch.

Owned here: which epoch a number lies in, and when an iterator goes on, passes over batches, or is
made anew somewhere else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator

from jaxstore.loading.batch import HostBatch
from jaxstore.loading.engine import Engine
from jaxstore.loading.epoch import Schedule, n_windows
from jaxstore.loading.position import Position
from jaxstore.loading.prefetch import Prefetch
from jaxstore.loading.statistics import Clock

# Beyond, it is cheaper to begin anew, which costs the reading of a window.
_WINDOWS_PASSED = 2


def position_of(schedule: Schedule, number: int) -> Position:
    """The epoch in which a batch of the stream lies, and its number there.

    >>> import numpy as np
    >>> schedule = Schedule(np.array([[0, 10]]), None, 4, "carry", 0, False)
    >>> [position_of(schedule, n) for n in (1, 2, 5)]
    [Position(epoch=0, batch=1), Position(epoch=1, batch=0), Position(epoch=2, batch=0)]
    """
    if schedule.remainder != "carry":
        return Position(*divmod(number, schedule.n_batches(0)))
    # A batch belongs to the epoch of its last row.
    epoch = -(-(number + 1) * schedule.batch_size // schedule.n_rows) - 1
    return Position(epoch, number - schedule.first_batch(epoch))


def batches_from(engine: Engine, schedule: Schedule, number: int) -> Generator[HostBatch]:
    """The stream from one of its batches on; it has no end."""
    at = position_of(schedule, number)
    while True:
        yield from engine.host_batches(at, Clock())
        at = Position(at.epoch + 1, 0)


def in_blocks(batches: Generator[HostBatch], size: int) -> Generator[list[HostBatch]]:
    """Batches by the block, so that threads hand over one thing in place of many.

    What came before an error is still given.
    """
    block: list[HostBatch] = []
    try:
        for batch in batches:
            block.append(batch)
            if len(block) == size:
                yield block
                block = []  # and no clear(): the block is in other hands
    except Exception:
        if block:
            yield block
        raise
    finally:
        batches.close()


class Stream:
    """Any batch of the stream, at little cost if they are asked for about in order.

    Args:
        engine: Makes them.
        schedule: Of the epochs.
        is_ahead: Whether a thread makes batches that were not asked for yet.
    """

    def __init__(self, engine: Engine, schedule: Schedule, *, is_ahead: bool) -> None:
        self._engine = engine
        self._schedule = schedule
        self._is_ahead = is_ahead
        self._coming: Prefetch[list[HostBatch]] | Generator[list[HostBatch]] | None = None
        self._block: deque[HostBatch] = deque()  # that came of it last
        self._next = 0  # number of the first of them
        self._passed: dict[int, HostBatch] = {}
        per_window = math.ceil(schedule.n_batches(0) / max(1, n_windows(schedule)))
        self._reach = _WINDOWS_PASSED * max(1, per_window)

    def first(self) -> HostBatch:
        """The first one, which is still there when it is asked for."""
        coming = batches_from(self._engine, self._schedule, 0)
        try:
            batch = self._passed[0] = next(coming)
        finally:
            coming.close()
        return batch

    def batches(
        self, numbers: list[int], *, stride: int, n_kept: int
    ) -> Iterator[tuple[int, HostBatch]]:
        """Batches of the stream, each with its number.

        Args:
            numbers: Ascending.
            stride: How far they lie apart.
            n_kept: Batches to keep of those passed over, since others will ask for them.
        """
        for number in numbers:
            batch = self._passed.pop(number, None)
            if batch is None:
                batch = self._make(number, len(numbers), stride=stride, n_kept=n_kept)
            yield number, batch

    def close(self) -> None:
        """End the thread, and let go of all batches."""
        self._passed.clear()
        self._stop()

    def _make(self, number: int, n_ahead: int, *, stride: int, n_kept: int) -> HostBatch:
        reach = max(self._reach, min(stride, n_kept))
        if self._coming is None or not 0 <= number - self._next <= reach:
            self._seek(number, n_ahead)
        assert self._coming is not None
        while True:
            if not self._block:
                self._block.extend(self._following())
            batch = self._block.popleft()
            at, self._next = self._next, self._next + 1
            if at == number:
                return batch
            self._passed[at] = batch
            while len(self._passed) > n_kept:
                del self._passed[min(self._passed)]

    def _following(self) -> list[HostBatch]:
        assert self._coming is not None
        try:
            return next(self._coming)
        except BaseException:
            self._stop()  # what raised is at its end; the next call begins anew
            raise

    def _seek(self, number: int, n_ahead: int) -> None:
        self._stop()  # first, so that its memory is used again
        # The thread must hold no reference to this stream, or neither would ever go.
        engine, schedule = self._engine, self._schedule

        def blocks() -> Generator[list[HostBatch]]:
            return in_blocks(batches_from(engine, schedule, number), n_ahead)

        self._coming = (
            Prefetch(blocks, ahead=1, timings=Clock().timings) if self._is_ahead else blocks()
        )
        self._next = number

    def _stop(self) -> None:
        self._block.clear()
        coming, self._coming = self._coming, None
        if coming is not None:
            coming.close()
