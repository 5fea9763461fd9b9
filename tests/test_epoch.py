from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxstore.loading.epoch import (
    REMAINDERS,
    Remainder,
    Schedule,
    Window,
    most_chunks,
    n_windows,
    share,
    windows,
)
from jaxstore.loading.shuffle import Rows, block_shuffled_order, permutation
from jaxstore.loading.views import row_spans

EPOCHS = st.sampled_from(range(7))
Batch = list[tuple[int, bool]]  # (row, is_real) at each position


def schedule_of(
    n_rows: int,
    *,
    chunk_rows: int = 4,
    chunks: list[int] | None = None,
    offsets: Iterable[int] = (0,),
    window_chunks: int | None = 2,
    batch_size: int = 3,
    remainder: str = "drop",
    seed: int = 0,
    is_shuffled: bool = True,
) -> Schedule:
    ids = np.arange(-(-n_rows // chunk_rows)) if chunks is None else np.array(chunks, np.int64)
    spans = row_spans(ids, chunk_rows=chunk_rows, n_rows=n_rows, offsets=offsets)
    return Schedule(spans, window_chunks, batch_size, cast(Remainder, remainder), seed, is_shuffled)


@st.composite
def schedules(
    draw: st.DrawFn, *, remainders: tuple[str, ...] = REMAINDERS, is_shuffled: bool | None = None
) -> Schedule:
    """Also splits of some chunks only, and views that leave chunks with fewer rows or none."""
    # Hypothesis draws the first of the choices most often, so these are not the simplest.
    n_rows, chunk_rows = draw(st.sampled_from(range(61))), draw(st.sampled_from(range(1, 10)))
    left_out = draw(st.sets(st.integers(0, 20), max_size=3))
    return schedule_of(
        n_rows,
        chunk_rows=chunk_rows,
        chunks=[c for c in range(-(-n_rows // chunk_rows)) if c not in left_out],
        offsets=draw(st.sampled_from([(0,), (0,), (0, 1), (-2, 0), (0, 5)])),
        window_chunks=draw(st.sampled_from([2, 1, 3, 4, 7, None])),
        batch_size=draw(st.sampled_from([7, 4, 11, 3, 5, 2, 25, 1])),
        remainder=draw(st.sampled_from(remainders)),
        seed=draw(st.sampled_from([5, 0, 2**40])),
        is_shuffled=draw(st.sampled_from([True, False])) if is_shuffled is None else is_shuffled,
    )


# 1000 rows are 10 batches of 100; the view leaves 993 of them.
THOUSAND = schedule_of(1000, chunk_rows=64, window_chunks=4, batch_size=100)
LAGGED = schedule_of(1000, chunk_rows=24, window_chunks=4, batch_size=100, offsets=(0, 7))


class Drawn(NamedTuple):
    """One row, where the plain loops find it."""

    row: int
    epoch: int
    window: int
    at: int  # place in the window


class Plain:
    """The same epochs by loops over rows, each made as a whole."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.rows = [row for span in schedule.spans.tolist() for row in range(*span)]

    def dropped(self, epoch: int) -> set[int]:
        schedule, n = self.schedule, len(self.rows)
        if schedule.remainder != "drop":
            return set()
        n_dropped = n % schedule.batch_size
        order = list(range(len(schedule.spans)))
        if schedule.is_shuffled:
            order = permutation(len(order), "skip", schedule.seed).tolist()
        cycle = [row for i in order for row in range(*schedule.spans[i].tolist())]
        return {cycle[(i - n_dropped * (epoch + 1)) % n] for i in range(n_dropped)}

    def stream(self, epoch: int) -> list[Drawn]:
        """All rows of an epoch, as they are drawn."""
        schedule = self.schedule
        order = list(range(len(schedule.spans)))
        if schedule.is_shuffled:
            order = permutation(len(order), "chunks", schedule.seed, epoch).tolist()
        width, found = schedule.window_chunks or max(1, len(order)), []
        dropped = self.dropped(epoch)
        for window, start in enumerate(range(0, len(order), width)):
            chunks = order[start : start + width]
            rows = [row for i in chunks for row in range(*schedule.spans[i].tolist())]
            kept = [row for row in rows if row not in dropped]
            places = list(range(len(kept)))
            if schedule.is_shuffled:
                places = permutation(len(kept), "rows", schedule.seed, epoch, window).tolist()
            found += [Drawn(kept[at], epoch, window, at) for at in places]
        return found

    def batches(self, epoch: int) -> list[Batch]:
        size = self.schedule.batch_size
        stream = self.stream(epoch)
        if self.schedule.remainder == "carry":
            before = [drawn for e in range(epoch) for drawn in self.stream(e)]
            whole = [*before, *stream]
            begin = len(before) // size * size
            stream = whole[begin : len(whole) // size * size]
        found: list[Batch] = []
        for start in range(0, len(stream), size):
            drawn = sorted(
                stream[start : start + size],
                key=lambda drawn: (drawn.epoch, drawn.window, drawn.at),
            )
            batch = [(one.row, True) for one in drawn]
            # What is missing is filled up with the rows of the last window.
            tail = [one.row for one in drawn if one.window == drawn[-1].window]
            batch += [(tail[i % len(tail)], False) for i in range(size - len(drawn))]
            found.append(batch)
        return found


def batches_of(
    schedule: Schedule,
    made: Iterable[Window],
    *,
    epoch: int,
    first: int = 0,
    positions: Rows | None = None,
) -> list[Batch]:
    """The batches from `first` on that windows make, with each position filled once."""
    wanted = schedule.batch_size if positions is None else len(positions)
    filled: list[dict[int, tuple[int, bool]]] = [{} for _ in range(schedule.n_batches(epoch))]
    for window in made:
        touched = {segment.batch for segment in window.segments}
        assert touched <= set(window.batches)
        assert positions is not None or touched == set(window.batches) != set()
        for segment in window.segments:
            assert segment.batch >= first
            for i, row in enumerate(segment.rows.tolist(), segment.start):
                assert i not in filled[segment.batch]
                filled[segment.batch][i] = (row, segment.is_real)
        n_full = sum(len(batch) == schedule.batch_size for batch in filled[first:])
        assert positions is not None or window.n_done == first + n_full
    assert not any(filled[:first])
    assert all(sorted(batch) == list(range(wanted)) for batch in filled[first:])
    return [[batch[i] for i in range(wanted)] for batch in filled[first:]]


def epoch_of(schedule: Schedule, epoch: int) -> list[Batch]:
    return batches_of(schedule, windows(schedule, epoch=epoch), epoch=epoch)


def rows_of(batches: Iterable[Batch], *, is_real: bool = True) -> list[int]:
    return [row for batch in batches for row, flag in batch if flag == is_real]


@given(schedules(), EPOCHS)
@example(THOUSAND, 1)
@example(LAGGED, 1)
@example(schedule_of(3, batch_size=2), 0)  # below one chunk
@example(schedule_of(7, chunk_rows=9, batch_size=4), 2)  # both ends of a chunk dropped
@example(schedule_of(20, window_chunks=1, batch_size=11), 1)  # a batch above the window
@example(schedule_of(18, window_chunks=None, batch_size=4, remainder="pad"), 0)
@example(schedule_of(7, batch_size=25, remainder="pad"), 2)  # one batch, mostly filling
@example(schedule_of(7, batch_size=25, remainder="carry"), 3)  # three epochs in one batch
def test_batches_are_those_of_loops_over_rows(schedule: Schedule, epoch: int) -> None:
    assert epoch_of(schedule, epoch) == Plain(schedule).batches(epoch)


@given(schedules(remainders=("drop",)), EPOCHS)
@example(replace(THOUSAND, remainder="drop"), 1)
@example(replace(LAGGED, remainder="drop"), 1)
def test_drop_leaves_out_less_than_a_batch_and_other_rows_in_the_next_epoch(
    schedule: Schedule, epoch: int
) -> None:
    rows, n = Plain(schedule).rows, schedule.n_rows
    skipped = []
    for e in (epoch, epoch + 1):
        seen = rows_of(epoch_of(schedule, e))
        assert len(seen) == len(set(seen)) == n - n % schedule.batch_size
        assert set(seen) <= set(rows)
        skipped.append(set(rows) - set(seen))
    assert n < schedule.batch_size or not skipped[0] & skipped[1]


@given(schedules(remainders=("drop",)))
def test_no_row_is_dropped_again_before_all_others_were(schedule: Schedule) -> None:
    n_dropped = schedule.n_rows % schedule.batch_size
    if n_dropped == 0:
        return
    rows = set(Plain(schedule).rows)
    epochs = range(-(-schedule.n_rows // n_dropped))
    skipped = [rows - set(rows_of(epoch_of(schedule, epoch))) for epoch in epochs]
    before_the_last = [row for dropped in skipped[:-1] for row in dropped]
    assert len(before_the_last) == len(set(before_the_last))
    assert set.union(*skipped) == rows


@given(schedules(remainders=("pad",)), EPOCHS)
@example(replace(THOUSAND, remainder="pad"), 1)
@example(replace(LAGGED, remainder="pad"), 1)
def test_pad_has_all_rows_once_and_fills_the_last_batch_with_its_own(
    schedule: Schedule, epoch: int
) -> None:
    batches = epoch_of(schedule, epoch)
    assert sorted(rows_of(batches)) == Plain(schedule).rows
    n_filled = -schedule.n_rows % schedule.batch_size
    assert len(rows_of(batches, is_real=False)) == n_filled
    assert not rows_of(batches[:-1], is_real=False)
    if n_filled:
        flags = [is_real for _, is_real in batches[-1]]
        assert flags == sorted(flags, reverse=True)
        assert set(rows_of(batches[-1:], is_real=False)) <= set(rows_of(batches[-1:]))


@given(schedules(remainders=("carry",)), EPOCHS)
@example(replace(THOUSAND, remainder="carry"), 1)
@example(replace(LAGGED, remainder="carry"), 1)
def test_carry_is_each_epoch_in_turn_in_batches_of_one_size(schedule: Schedule, epoch: int) -> None:
    batches = [batch for e in range(epoch + 1) for batch in epoch_of(schedule, e)]
    stream = rows_of(batches)
    n, size = schedule.n_rows, schedule.batch_size
    assert len(stream) == (epoch + 1) * n // size * size
    assert all(len(batch) == size for batch in batches)
    assert not rows_of(batches, is_real=False)
    rows = Plain(schedule).rows
    # Inside a batch rows are sorted by window, so an epoch ends exactly where its n rows end.
    for start in range(0, len(stream), max(1, n)):
        part = stream[start : start + n]
        assert len(set(part)) == len(part)
        assert len(part) < n or sorted(part) == rows


@given(schedules(remainders=("carry",)), EPOCHS)
def test_rows_say_which_epoch_they_belong_to(schedule: Schedule, epoch: int) -> None:
    before = epoch * schedule.n_rows // schedule.batch_size * schedule.batch_size
    found = [
        segment.epoch
        for window in windows(schedule, epoch=epoch)
        for segment in window.segments
        for _ in segment.rows
    ]
    assert found == [(before + i) // schedule.n_rows for i in range(len(found))]
    for window in windows(schedule, epoch=epoch):
        assert {segment.epoch for segment in window.segments} == {window.epoch}


@given(schedules(), EPOCHS, st.integers(1, 6))
@example(THOUSAND, 1, 3)
@example(LAGGED, 1, 4)
def test_any_number_of_processes_makes_the_same_batches(
    schedule: Schedule, epoch: int, n_processes: int
) -> None:
    whole = epoch_of(schedule, epoch)
    shares = [share(schedule.batch_size, rank, n_processes) for rank in range(n_processes)]
    assert np.concatenate(shares).tolist() == list(range(schedule.batch_size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    parts = []
    for positions in shares:
        made = windows(schedule, epoch=epoch, positions=positions)
        parts.append(batches_of(schedule, made, epoch=epoch, positions=positions))
    joined = [[entry for part in batch for entry in part] for batch in zip(*parts, strict=True)]
    assert joined == whole


@given(schedules(), EPOCHS, st.data())
def test_a_process_may_fill_any_positions_from_any_batch_on(
    schedule: Schedule, epoch: int, data: st.DataObject
) -> None:
    size = schedule.batch_size
    positions = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1)))), np.int64)
    first = data.draw(st.integers(0, schedule.n_batches(epoch)))
    made = windows(schedule, epoch=epoch, batch=first, positions=positions)
    found = batches_of(schedule, made, epoch=epoch, first=first, positions=positions)
    whole = epoch_of(schedule, epoch)[first:]
    assert found == [[batch[i] for i in positions] for batch in whole]


@given(schedules(), EPOCHS, st.data())
def test_an_epoch_that_begins_late_is_the_remainder_and_takes_only_its_windows(
    schedule: Schedule, epoch: int, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, schedule.n_batches(epoch)))
    late = list(windows(schedule, epoch=epoch, batch=first))
    whole = list(windows(schedule, epoch=epoch))
    found = batches_of(schedule, late, epoch=epoch, first=first)
    assert found == epoch_of(schedule, epoch)[first:]
    needed = [window for window in whole if window.batches.stop > first]
    assert [(window.epoch, window.last, window.n_done) for window in late] == [
        (window.epoch, window.last, window.n_done) for window in needed
    ]


@given(schedules(), EPOCHS)
def test_a_window_has_rows_of_its_own_chunks_alone(schedule: Schedule, epoch: int) -> None:
    made = list(windows(schedule, epoch=epoch))
    width = schedule.window_chunks or max(1, len(schedule.spans))
    for window in made:
        assert window.last < len(schedule.spans)
        own = schedule.order(window.epoch)[window.last // width * width : window.last + 1]
        rows = {row for i in own for row in range(*schedule.spans[i].tolist())}
        assert {row for segment in window.segments for row in segment.rows.tolist()} <= rows
        assert len(own) == most_chunks(schedule) or window.last + 1 == len(schedule.spans)
    assert most_chunks(schedule) == min(width, len(schedule.spans))
    places = [(window.epoch, window.last) for window in made]
    assert all(a < b for a, b in pairwise(places))
    n_own = sum(window.epoch == epoch for window in made)
    assert n_own <= n_windows(schedule) == len(range(0, len(schedule.spans), width))


@given(schedules(remainders=("pad", "carry"), is_shuffled=False), EPOCHS)
def test_unshuffled_rows_come_as_they_are_stored(schedule: Schedule, epoch: int) -> None:
    stream = rows_of(batch for e in range(epoch + 1) for batch in epoch_of(schedule, e))
    assert stream == (Plain(schedule).rows * (epoch + 1))[: len(stream)]


@given(schedules(remainders=("drop",), is_shuffled=False), EPOCHS)
def test_an_unshuffled_first_epoch_drops_the_last_rows(schedule: Schedule, epoch: int) -> None:
    rows = Plain(schedule).rows
    n = len(rows) // schedule.batch_size * schedule.batch_size
    assert rows_of(epoch_of(schedule, 0)) == rows[:n]
    later = rows_of(epoch_of(schedule, epoch))
    assert later == sorted(later)


@given(schedules(remainders=("pad",), is_shuffled=True), EPOCHS)
def test_the_order_is_the_block_shuffled_order(schedule: Schedule, epoch: int) -> None:
    lengths = schedule.spans[:, 1] - schedule.spans[:, 0]
    order = block_shuffled_order(
        np.arange(len(lengths)),
        lengths,
        block_chunks=schedule.window_chunks,
        seed=schedule.seed,
        epoch=epoch,
    )
    stream = schedule.spans[order[:, 0], 0] + order[:, 1]
    for k, batch in enumerate(epoch_of(schedule, epoch)):
        drawn = stream[k * schedule.batch_size : (k + 1) * schedule.batch_size]
        assert sorted(rows_of([batch])) == sorted(drawn.tolist())


@pytest.mark.parametrize("remainder", REMAINDERS)
def test_epochs_and_seeds_have_orders_of_their_own(remainder: str) -> None:
    first = schedule_of(200, remainder=remainder)
    second = replace(first, seed=1)
    orders = [rows_of(epoch_of(s, epoch)) for s in (first, second) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 6
    assert epoch_of(first, 0) == epoch_of(schedule_of(200, remainder=remainder), 0)


def test_the_batches_are_pinned() -> None:
    # A stored loader position is a place in this order: never change it.
    schedule = schedule_of(11, batch_size=4, seed=5)
    assert [[row for row, _ in batch] for batch in epoch_of(schedule, 2)] == [
        [8, 10, 5, 6],
        [9, 7, 0, 1],
    ]


@pytest.mark.parametrize(
    ("remainder", "n_batches"),
    [("drop", [3, 3, 3, 3]), ("pad", [4, 4, 4, 4]), ("carry", [3, 3, 4, 3])],
)
def test_an_epoch_has_as_many_batches_as_its_remainder_allows(
    remainder: str, n_batches: list[int]
) -> None:
    schedule = schedule_of(10, remainder=remainder)
    assert [schedule.n_batches(epoch) for epoch in range(4)] == n_batches
    assert [len(epoch_of(schedule, epoch)) for epoch in range(4)] == n_batches
