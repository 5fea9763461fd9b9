"""Chunks in memory: what is read, what stays, and what makes room."""

from __future__ import annotations

import numpy as np
import pytest
from stored_rows import CountingSource, numbered

from jaxstore.loading.blocks import Blocks
from jaxstore.loading.buffers import Spec
from jaxstore.loading.column import Column


@pytest.fixture
def source():
    return CountingSource("x", numbered(100), 10)


def column(source, offsets=(0,)):
    geometry = source.geometry
    return Column(source, None, Spec(geometry.inner_shape, geometry.dtype), offsets)


def never(column, chunks):
    return np.zeros(len(chunks), np.int64)


def opened(source, n_slots, **settings):
    blocks = Blocks([column(source, **settings)], [n_slots], max_inflight=2)
    blocks.open()
    return blocks


def gathered(blocks, rows):
    out = np.empty((len(rows), 3), "f4")
    blocks.gather(0, rows, out)
    return out


def test_rows_are_gathered_from_the_chunks_that_were_asked_for(source):
    blocks = opened(source, 4)
    rows = np.array([3, 95, 12, 3])
    request = blocks.request(rows, last_use=never)
    blocks.wait(request)
    assert np.array_equal(gathered(blocks, rows), source.values[rows])
    assert sorted(source.chunks) == [0, 1, 9]
    blocks.close()


def test_a_chunk_of_two_requests_is_read_once(source):
    blocks = opened(source, 4)
    first = blocks.request(np.array([1, 11]), last_use=never)
    second = blocks.request(np.array([12, 21]), last_use=never)
    blocks.wait(second)
    blocks.wait(first)
    assert sorted(source.chunks) == [0, 1, 2]
    blocks.release(first)
    third = blocks.request(np.array([31, 41]), last_use=never)  # chunk 1 is still held
    blocks.wait(third)
    assert np.array_equal(gathered(blocks, np.array([12])), source.values[[12]])
    blocks.close()


def test_what_is_needed_last_makes_room(source):
    blocks = opened(source, 3)
    request = blocks.request(np.array([0, 10, 20]), last_use=never)
    blocks.wait(request)
    blocks.release(request)
    uses = {0: 5, 1: 9, 2: 7}
    later = blocks.request(
        np.array([30]), last_use=lambda _, chunks: np.array([uses[c] for c in chunks.tolist()])
    )
    blocks.wait(later)
    source.chunks.clear()
    blocks.wait(blocks.request(np.array([0, 20]), last_use=never))
    assert source.chunks == []
    blocks.close()


def test_what_was_read_whole_stays_for_the_next_epoch_and_what_failed_does_not(source):
    source.fails_at, source.error = 2, OSError(5, "Input/output error")
    blocks = opened(source, 4)
    request = blocks.request(np.array([0, 10, 20, 30]), last_use=never)
    with pytest.raises(OSError, match="Input/output"):
        blocks.wait(request)
    blocks.close()
    source.fails_at = None
    source.chunks.clear()
    blocks.open()
    request = blocks.request(np.array([0, 10, 20, 30]), last_use=never)
    blocks.wait(request)
    assert 2 in source.chunks
    assert 0 not in source.chunks
    rows = np.array([0, 10, 20, 30])
    assert np.array_equal(gathered(blocks, rows), source.values[rows])
    blocks.close()
    assert blocks.reads.chunks == len(source.chunks)


def test_rows_of_other_offsets_are_there_too(source):
    blocks = opened(source, 10, offsets=(-11, 0, 25))
    blocks.wait(blocks.request(np.array([15, 16]), last_use=never))
    assert sorted(source.chunks) == [0, 1, 4]
    blocks.close()


@pytest.mark.parametrize(
    ("anchor_rows", "offsets", "wanted"),
    [(10, (0,), 1), (20, (0,), 2), (5, (0,), 1), (15, (0,), 3), (10, (0, 1), 2), (10, (0, 500), 4)],
)
def test_most_chunks_is_a_bound_that_is_reached(anchor_rows, offsets, wanted):
    tall = CountingSource("x", numbered(2000), 10)
    bound = column(tall, offsets).most_chunks(anchor_rows, 1)
    starts = range(0, 2000 - offsets[-1] - anchor_rows, anchor_rows)
    needs = [len(column(tall, offsets).chunks_of(np.arange(s, s + anchor_rows))) for s in starts]
    assert max(needs) <= bound <= wanted
