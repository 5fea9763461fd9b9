"""One epoch as data: which rows are in which window, and where in which batch they go.

Owned here: batches cut over the whole epoch, what becomes of the remainder, and which positions of
a batch a process fills. All of it is a function of a `Schedule` and the number of the epoch, so
that it does not matter who asks, in which process, or how often the program was stopped.

Rows of a batch are sorted by the place of their chunk in the window. So whoever takes a run of
positions takes few chunks, and the batch is the same however many take part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64

from jaxstore.loading.shuffle import Rows, permutation

Remainder = Literal["drop", "pad", "carry"]
REMAINDERS: tuple[str, ...] = get_args(Remainder)


@dataclass(frozen=True, slots=True)
class Schedule:
    """What decides which row comes when."""

    spans: Int64[np.ndarray, "chunks 2"]  # rows of each chunk of the split, half-open
    window_chunks: int | None  # chunks shuffled together; None is all of them
    batch_size: int  # of all processes together
    remainder: Remainder
    seed: int
    is_shuffled: bool

    @property
    def n_rows(self) -> int:
        """Rows of an epoch, before a remainder is dropped."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def first_batch(self, epoch: int) -> int:
        """Batches of all epochs before one that carry their remainder; else 0."""
        return epoch * self.n_rows // self.batch_size if self.remainder == "carry" else 0

    def n_batches(self, epoch: int) -> int:
        """Batches of an epoch."""
        match self.remainder:
            case "drop":
                return self.n_rows // self.batch_size
            case "pad":
                return -(-self.n_rows // self.batch_size)
            case "carry":
                return self.first_batch(epoch + 1) - self.first_batch(epoch)

    def order(self, epoch: int) -> Rows:
        """The chunks of an epoch as positions in `spans`, in the order in which they are read."""
        n = len(self.spans)
        return permutation(n, "chunks", self.seed, epoch) if self.is_shuffled else np.arange(n)


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of one window that lie in one batch."""

    batch: int  # of the epoch
    start: int  # position of the first, among those that this process fills
    rows: Rows
    epoch: int  # that the rows belong to, the one before for carried rows
    is_real: bool  # else they fill up the last batch, and have been in it before


@dataclass(frozen=True, slots=True)
class Window:
    """Chunks that are in memory together, and what is made of them."""

    segments: tuple[Segment, ...]
    last: int  # chunk, as its place in the order of its epoch
    epoch: int  # of that order
    batches: range  # of the epoch, that have rows in it, for any process
    n_done: int  # batches of the epoch that are complete after this window


def windows(
    schedule: Schedule, *, epoch: int, batch: int = 0, positions: Rows | None = None
) -> Iterator[Window]:
    """The windows of an epoch, in the order in which they are read.

    Args:
        schedule: Which row comes when.
        epoch: Counted from 0.
        batch: The first batch that is wanted; windows before it are left out.
        positions: Of each batch, sorted, which this process fills; None is all of them.
    """
    size, n_rows = schedule.batch_size, schedule.n_rows
    first = schedule.first_batch(epoch)
    start, stop = (first + batch) * size, (first + schedule.n_batches(epoch)) * size
    if start >= stop:
        return
    is_carried = schedule.remainder == "carry"
    sources = range(start // n_rows, -(-stop // n_rows)) if is_carried else (epoch,)
    for source in sources:
        offset = source * n_rows if is_carried else 0
        for drawn in _drawn(schedule, source, start - offset, stop - offset):
            begin = offset + drawn.start
            end = min(begin + len(drawn.rows), stop)
            segments = _cut(drawn, begin, max(begin, start), end, size)
            if schedule.remainder == "pad" and end == n_rows and stop > end:
                last = segments[-1][1]
                segments.append((end, last[np.arange(stop - end) % len(last)], False))
                end = stop
            yield Window(
                tuple(_segments(segments, first, size, source, positions)),
                drawn.last,
                source,
                range(max(begin, start) // size - first, -(-end // size) - first),
                end // size - first,
            )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The rows of a window, and the order in which they are drawn."""

    rows: Rows  # chunk by chunk
    order: Rows  # places in `rows`
    start: int  # rows of the epoch before this window
    last: int  # place of its last chunk in the order of the epoch


def _drawn(schedule: Schedule, epoch: int, start: int, stop: int) -> Iterator[_Drawn]:
    """The windows of an epoch that have rows in [start, stop), each with all of its rows."""
    kept = _kept(schedule, epoch)
    chunks = schedule.order(epoch)
    n_rows = schedule.spans[:, 1] - schedule.spans[:, 0]
    for chunk, rows in kept.items():
        n_rows[chunk] = len(rows)
    width = max(1, most_chunks(schedule))
    begin = 0
    for number, at in enumerate(range(0, len(chunks), width)):
        members = chunks[at : at + width]
        n = int(n_rows[members].sum())
        if n and begin < stop and begin + n > start:
            rows = np.concatenate(
                [kept[c] if c in kept else np.arange(*schedule.spans[c]) for c in members]
            )
            order = np.arange(n)
            if schedule.is_shuffled:
                order = permutation(n, "rows", schedule.seed, epoch, number)
            yield _Drawn(rows, order, begin, at + len(members) - 1)
        begin += n


def _cut(
    drawn: _Drawn, begin: int, start: int, stop: int, size: int
) -> list[tuple[int, Rows, bool]]:
    """The rows of a window at stream positions [start, stop), a piece per batch.

    Args:
        drawn: The window.
        begin: Position of its first row.
        start: First position that is wanted.
        stop: Where to end.
        size: Of a batch.
    """
    pieces = []
    while start < stop:
        end = min(stop, (start // size + 1) * size)
        places = np.sort(drawn.order[start - begin : end - begin])
        pieces.append((start, drawn.rows[places], True))
        start = end
    return pieces


def _segments(
    parts: list[tuple[int, Rows, bool]],
    first: int,
    size: int,
    epoch: int,
    positions: Rows | None,
) -> Iterator[Segment]:
    """The share of one process in pieces of batches, each given with its stream position."""
    for at, rows, is_real in parts:
        place = at % size
        if positions is not None:
            low, high = np.searchsorted(positions, [place, place + len(rows)])
            rows, place = rows[positions[low:high] - place], int(low)
        if len(rows):
            yield Segment(at // size - first, place, rows, epoch, is_real)


def _kept(schedule: Schedule, epoch: int) -> dict[int, Rows]:
    """Rows that are left of the chunks from which an epoch drops its remainder.

    The rows dropped move on by their number with each epoch, along an order of all rows that never
    changes: so none is dropped twice before all others were, nor in two epochs running.
    """
    n_rows = schedule.n_rows
    n_dropped = n_rows % schedule.batch_size
    if schedule.remainder != "drop" or not n_dropped:
        return {}
    n_chunks = len(schedule.spans)
    order = np.arange(n_chunks)
    if schedule.is_shuffled:
        order = permutation(n_chunks, "skip", schedule.seed)
    spans = schedule.spans[order]
    ends = np.cumsum(spans[:, 1] - spans[:, 0])
    # Unshuffled epochs begin with dropping the last rows, as anyone would expect of the first.
    start = -n_dropped * (epoch + 1) % n_rows
    dropped = [(start, min(start + n_dropped, n_rows)), (0, start + n_dropped - n_rows)]
    kept: dict[int, Rows] = {}
    for low, high in dropped:
        if low >= high:
            continue
        first, last = np.searchsorted(ends, [low, high - 1], "right")
        for i in range(first, last + 1):
            begin, end = int(spans[i, 0]), int(spans[i, 1])
            shift = begin - (int(ends[i]) - (end - begin))
            rows = kept.get(int(order[i]), np.arange(begin, end))
            is_dropped = (rows >= low + shift) & (rows < high + shift)
            kept[int(order[i])] = rows[~is_dropped]
    return kept


def share(batch_size: int, rank: int, size: int) -> Rows:
    """The positions of a batch that one of several processes fills: a run of them.

    >>> [share(10, rank, 3).tolist() for rank in range(3)]
    [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    """
    return np.arange(batch_size * rank // size, batch_size * (rank + 1) // size)


def most_chunks(schedule: Schedule) -> int:
    """Chunks of a full window."""
    n_chunks = len(schedule.spans)
    return min(schedule.window_chunks or n_chunks, n_chunks)


def n_windows(schedule: Schedule) -> int:
    """Windows of an epoch."""
    return math.ceil(len(schedule.spans) / max(1, most_chunks(schedule)))
