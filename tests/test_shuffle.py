from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.loading.shuffle import (
    block_shuffled_order,
    chunk_permutation,
    permutation,
    shuffle_quality,
)

CHUNKS = st.dictionaries(st.integers(0, 10**6), st.integers(0, 7), max_size=12)
WINDOWS = st.none() | st.integers(1, 14)


@given(CHUNKS, WINDOWS, st.integers(0, 2**70), st.integers(0, 1000))
def test_every_row_comes_once_and_with_its_window(
    lengths: dict[int, int], block_chunks: int | None, seed: int, epoch: int
) -> None:
    order = block_shuffled_order(
        list(lengths), lengths, block_chunks=block_chunks, seed=seed, epoch=epoch
    )
    assert order.dtype == np.int64
    assert order.shape == (sum(lengths.values()), 2)
    rows = [(c, w) for c, n in lengths.items() for w in range(n)]
    assert sorted(map(tuple, order.tolist())) == sorted(rows)
    chunks = chunk_permutation(list(lengths), seed=seed, epoch=epoch).tolist()
    start = 0
    for first in range(0, len(chunks), block_chunks or 1000):
        window = chunks[first : first + (block_chunks or 1000)]
        stop = start + sum(lengths[c] for c in window)
        assert set(order[start:stop, 0].tolist()) == {c for c in window if lengths[c]}
        start = stop


@given(CHUNKS, WINDOWS)
def test_lengths_may_be_a_mapping_or_one_per_chunk_or_one_for_all(
    lengths: dict[int, int], block_chunks: int | None
) -> None:
    def order(samples_per_chunk: object) -> list[list[int]]:
        found = block_shuffled_order(
            np.array(list(lengths), np.int32),
            samples_per_chunk,  # type: ignore[arg-type]
            block_chunks=block_chunks,
            seed=1,
            epoch=2,
        )
        return found.tolist()

    assert order(lengths) == order(list(lengths.values()))
    assert order(lengths) == order(np.array(list(lengths.values()), np.uint8))
    assert order(3) == order(dict.fromkeys(lengths, 3))


@given(st.integers(0, 200), st.integers(0, 2**70), st.integers(0, 100))
def test_a_permutation_is_one(n: int, seed: int, epoch: int) -> None:
    for stream in ("chunks", "rows", "skip", "split"):
        assert sorted(permutation(n, stream, seed, epoch).tolist()) == list(range(n))


def test_streams_seeds_epochs_and_windows_differ() -> None:
    places = [
        *(("chunks", 0, 0), ("chunks", 0, 1), ("chunks", 1, 0), ("skip", 0), ("split", 0)),
        *(("rows", 0, 0, 0), ("rows", 0, 0, 1), ("rows", 0, 1, 0), ("rows", 1, 0, 0)),
    ]
    orders = {tuple(permutation(50, *place).tolist()) for place in places}
    assert len(orders) == len(places)


def test_windows_of_an_epoch_have_an_order_of_their_own() -> None:
    order = block_shuffled_order(np.arange(4), 40, block_chunks=1, seed=0, epoch=0)
    within = [tuple(rows.tolist()) for rows in np.split(order[:, 1], 4)]
    assert len(set(within)) == 4


def test_the_order_is_pinned() -> None:
    # A stored loader position is a place in this order: never change it.
    assert permutation(8, "rows", 7, 3, 1).tolist() == [2, 4, 1, 3, 5, 0, 6, 7]
    assert chunk_permutation([2, 3, 5, 7, 11], seed=7, epoch=3).tolist() == [7, 11, 2, 5, 3]
    order = block_shuffled_order([0, 1, 2], [3, 3, 1], block_chunks=2, seed=7, epoch=3)
    assert order.tolist() == [[0, 2], [0, 1], [2, 0], [0, 0], [1, 2], [1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("samples_per_chunk", "block_chunks", "message"),
    [
        ([4, 4], 2, "2 entries for 3 chunks"),
        ([[4, 4, 2]], 2, "entries for 3 chunks"),
        ({0: 4, 1: 4}, 2, "no entry for chunk 2 and 0 others"),
        (-1, 2, "must be >= 0, got -1"),
        (4, 0, "block_chunks must be >= 1, or None.*got 0"),
        (4, -2, "block_chunks must be >= 1"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(
    samples_per_chunk: object, block_chunks: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        block_shuffled_order(
            [0, 1, 2],
            samples_per_chunk,  # type: ignore[arg-type]
            block_chunks=block_chunks,
            seed=0,
            epoch=0,
        )


def test_quality_is_the_mean_gap_over_that_of_a_uniform_permutation() -> None:
    stored = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert shuffle_quality(stored, 2) == pytest.approx(1 / (4 / 3))
    steps = np.array([[0, 0], [1, 1], [0, 1], [2, 0], [1, 0], [2, 1]])  # rows 0, 3, 1, 4, 2, 5
    assert shuffle_quality(np.concatenate([steps, steps + np.array([3, 0])]), 2) == pytest.approx(
        (3 + 2 + 3 + 2 + 3 + 1 + 3 + 2 + 3 + 2 + 3) / 11 / (12 / 3)
    )


def test_quality_ends_at_one() -> None:
    assert shuffle_quality(np.array([[0, 0], [1, 1], [0, 1], [1, 0]]), 2) == 1.0


def test_quality_grows_with_the_window_up_to_one() -> None:
    def quality(block_chunks: int | None) -> float:
        order = block_shuffled_order(np.arange(256), 16, block_chunks=block_chunks, seed=0, epoch=0)
        return shuffle_quality(order, 16)

    qualities = [quality(block_chunks) for block_chunks in (1, 4, 16, None)]
    assert all(a < b for a, b in pairwise(qualities))
    assert qualities[0] < 0.1
    assert 0.97 < qualities[-1] <= 1.0


def test_gaps_between_the_chunks_of_a_split_are_no_quality() -> None:
    def quality(chunks: list[int]) -> float:
        order = block_shuffled_order(chunks, 50, block_chunks=1, seed=0, epoch=0)
        return shuffle_quality(order, 50)

    assert quality([0, 1000, 2000, 3000]) == quality([0, 1, 2, 3])


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_have_no_quality(n: int) -> None:
    assert shuffle_quality(np.zeros((n, 2), np.int64), 4) == 0.0
