"""Rows are gathered into whole chunks, in order, without a copy where none is needed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.saving.assembly import Strand


@given(sizes=st.lists(st.integers(0, 20)), chunk=st.integers(1, 7))
def test_only_whole_chunks_leave_before_the_rest(sizes, chunk):
    strand, out, n = Strand(chunk), [], 0
    for size in sizes:
        rows = np.arange(n, n + size)[None]
        n += size
        for first, whole in strand.push(rows):
            assert first == sum(a.shape[1] for a in out)
            assert whole.shape[1] % chunk == 0
            out.append(whole)
        assert strand.waiting == n - strand.stored < chunk
    out += [rest for _, rest in strand.rest()]
    assert strand.stored == n
    assert np.concatenate([np.empty((1, 0)), *out], axis=1)[0].tolist() == list(range(n))


def test_rows_that_fill_chunks_are_passed_on_as_views():
    rows = np.arange(12).reshape(1, 12)
    ((first, whole),) = Strand(4).push(rows)
    assert first == 0
    assert np.shares_memory(whole, rows)


def test_rows_count_as_stored_only_when_writing_them_returned():
    strand = Strand(2)
    chunks = strand.push(np.zeros((1, 2)))
    next(chunks)
    chunks.close()  # as when writing raises
    assert strand.stored == 0


def test_splitting_keeps_what_waits():
    strand = Strand(4)
    list(strand.push(np.arange(6).reshape(2, 3)))
    parts = [[rest[0].tolist() for _, rest in part.rest()] for part in strand.split(2)]
    assert parts == [[[0, 1, 2]], [[3, 4, 5]]]


def test_a_tail_is_shown_and_comes_again_with_its_chunk():
    strand = Strand(4)
    list(strand.push(np.arange(3)[None]))
    assert [(first, rows[0].tolist()) for first, rows in strand.tail()] == [(0, [0, 1, 2])]
    assert (strand.shown, strand.stored, strand.waiting) == (3, 0, 3)
    chunks = [(first, rows[0].tolist()) for first, rows in strand.push(np.arange(3, 6)[None])]
    assert chunks == [(0, [0, 1, 2, 3])]
    assert (strand.shown, strand.stored, strand.waiting) == (4, 4, 2)
