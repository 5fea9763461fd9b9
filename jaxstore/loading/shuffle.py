"""The order of rows: chunks permuted, rows shuffled inside windows of chunks.

Owned here: randomness, and how well an order mixes. Randomness comes from the raw bits of a
generator, whose stream NumPy promises to keep, and not from `Generator.permutation`, whose result
may change with NumPy. Batches are cut by `epoch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

Rows = Int64[np.ndarray, " rows"]
ChunkIds = Sequence[int] | Integer[np.ndarray, " chunks"]
SamplesPerChunk = int | ChunkIds | Mapping[int, int]
_STREAMS = {"chunks": 0, "rows": 1, "skip": 2, "split": 3}


def permutation(n: int, stream: str, seed: int, *at: int) -> Rows:
    """A permutation of 0..n-1, equal for equal arguments on any machine.

    Args:
        n: Length.
        stream: What is permuted: "chunks", "rows", "skip" or "split"; each has its own randomness.
        seed: Of the caller.
        at: Where in the stream, such as epoch and window.

    >>> permutation(5, "chunks", 0, 0).tolist() == permutation(5, "chunks", 0, 0).tolist()
    True
    """
    entropy = (seed, _STREAMS[stream], *at)
    bits = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(n)
    # Stable, so that equal bits cannot be sorted otherwise by another version.
    return np.argsort(bits, kind="stable").astype(np.int64)


def chunk_permutation(
    chunk_ids: ChunkIds, *, seed: int, epoch: int
) -> Int64[np.ndarray, " chunks"]:
    """The chunks of a split in the order in which an epoch reads them.

    >>> sorted(chunk_permutation([3, 5, 8], seed=0, epoch=1).tolist())
    [3, 5, 8]
    """
    chunks = np.asarray(chunk_ids, np.int64)
    return chunks[permutation(len(chunks), "chunks", seed, epoch)]


def block_shuffled_order(
    chunk_ids: ChunkIds,
    samples_per_chunk: SamplesPerChunk,
    *,
    block_chunks: int | None,
    seed: int,
    epoch: int,
) -> Int64[np.ndarray, "rows 2"]:
    """The order of all rows for one epoch, each as (chunk, row within the chunk).

    Chunks are permuted, then rows shuffled across each window of `block_chunks` of them.

    Args:
        chunk_ids: Of a split.
        samples_per_chunk: One number only if every chunk is full. Else one for each of
            `chunk_ids`, or a mapping from chunk to number, so that a short last chunk is right.
        block_chunks: Chunks shuffled together; mixing grows with it, and so does the memory of a
            loader. None shuffles all of them together.
        seed: Of the order.
        epoch: Another epoch has another order.

    >>> order = block_shuffled_order([0, 1, 2], [2, 2, 1], block_chunks=2, seed=0, epoch=0)
    >>> sorted(map(tuple, order.tolist()))
    [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    """
    if block_chunks is not None and block_chunks < 1:
        raise ValueError(
            f"block_chunks must be >= 1, or None for all chunks together, got {block_chunks}"
        )
    chunks = np.asarray(chunk_ids, np.int64)
    at = permutation(len(chunks), "chunks", seed, epoch)
    chunks, lengths = chunks[at], _lengths(chunks, samples_per_chunk)[at]
    width = block_chunks or max(1, len(chunks))
    order = np.empty((int(lengths.sum()), 2), np.int64)
    start = 0
    for window, first in enumerate(range(0, len(chunks), width)):
        n_rows = lengths[first : first + width]
        places = np.repeat(chunks[first : first + width], n_rows)
        within = runs(np.zeros_like(n_rows), n_rows)
        shuffled = permutation(len(within), "rows", seed, epoch, window)
        stop = start + len(within)
        order[start:stop] = np.stack([places, within], axis=1)[shuffled]
        start = stop
    return order


def shuffle_quality(order: Integer[np.ndarray, "rows 2"], samples_per_chunk: int) -> float:
    """How well an order mixes: about 1 for a permutation of all rows, near 0 for stored order.

    It is the mean distance, in the stored order of the rows given, of two that follow one another,
    over the n/3 of a uniform permutation of n; at most 1. Fewer than two rows have 0.

    Args:
        order: As of `block_shuffled_order`.
        samples_per_chunk: Of a full chunk; a short last one changes nothing.

    >>> shuffle_quality(np.stack([np.repeat(np.arange(4), 8), np.tile(np.arange(8), 4)], 1), 8)
    0.09375
    """
    if len(order) < 2:
        return 0.0
    stored = np.asarray(order[:, 0], np.int64) * samples_per_chunk + order[:, 1]
    # Places among the rows given: a split with gaps between its chunks is not mixed by the gaps.
    places = np.unique(stored, return_inverse=True)[1]
    gap = np.abs(np.diff(places)).mean()
    return min(1.0, float(gap) / (len(order) / 3))


def runs(starts: Int64[np.ndarray, " runs"], lengths: Int64[np.ndarray, " runs"]) -> Rows:
    """The rows start, start + 1, ... of each run, one run after another.

    >>> runs(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _lengths(
    chunks: Int64[np.ndarray, " chunks"], samples_per_chunk: SamplesPerChunk
) -> Int64[np.ndarray, " chunks"]:
    """Rows of each chunk."""
    if isinstance(samples_per_chunk, Mapping):
        missing = [c for c in chunks.tolist() if c not in samples_per_chunk]
        if missing:
            raise ValueError(
                f"samples_per_chunk has no entry for chunk {missing[0]} and {len(missing) - 1} "
                "others. Give one for each of chunk_ids."
            )
        given: Any = [samples_per_chunk[c] for c in chunks.tolist()]
    elif np.ndim(samples_per_chunk) == 0:
        given = np.full(len(chunks), samples_per_chunk)
    else:
        given = samples_per_chunk
    lengths = np.asarray(given, np.int64)
    if lengths.shape != chunks.shape:
        raise ValueError(
            f"samples_per_chunk has {len(lengths)} entries for {len(chunks)} chunks. Give one for "
            "each of chunk_ids, or one number if all are full."
        )
    if len(lengths) and lengths.min() < 0:
        raise ValueError(f"samples_per_chunk must be >= 0, got {lengths.min()}")
    return lengths
