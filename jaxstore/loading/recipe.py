"""What the batches of a loader are made of, before anything is read.

Owned here: the record that every later step takes, how much memory it needs, and which chunk is
needed when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Int64

from jaxstore.errors import TooLargeError
from jaxstore.loading.buffers import Spec
from jaxstore.loading.column import Column, View, kept_bytes
from jaxstore.loading.epoch import Schedule, most_chunks
from jaxstore.loading.shuffle import Rows

Arrays = Mapping[str, Any]
BatchTransform = Callable[[dict[str, Any], Any], Arrays]

_WINDOWS = 2  # in memory at the same time: one is drained, the next one fills


@dataclass(frozen=True, slots=True)
class Recipe:
    """Columns, the views of them that a batch shows, and the order of rows."""

    columns: tuple[Column, ...]
    views: Mapping[str, View]
    schedule: Schedule
    anchors: Rows  # chunks of the split, as numbers of chunks of `anchor_rows`
    anchor_rows: int
    n_split_rows: int  # of the split, before those are left out that a view cannot show
    positions: Rows  # of each batch, that this process fills
    batch_transform: BatchTransform | None = None  # on the host

    def specs(self) -> dict[str, Spec]:
        """The arrays of a batch, this process's part, before any transform."""
        n = len(self.positions)
        rows = {label: view.row(self.columns[view.column]) for label, view in self.views.items()}
        return {label: Spec((n, *row.shape), row.dtype) for label, row in rows.items()}

    @property
    def batch_bytes(self) -> int:
        """Bytes of this process's part of a batch."""
        return sum(spec.nbytes for spec in self.specs().values())

    @property
    def window_bytes(self) -> int:
        """Bytes of the chunks of a window."""
        return kept_bytes(self.columns, self._chunks_of(most_chunks(self.schedule)))

    @property
    def all_slots(self) -> tuple[int, ...]:
        """Chunks of each column that hold the whole split."""
        return tuple(self._chunks_of(len(self.anchors)))

    def n_slots(self, memory_bytes: int | None, *, other_bytes: int) -> tuple[int, ...]:
        """How many chunks of each column are kept.

        Args:
            memory_bytes: What may be taken in all; None takes what is needed at least.
            other_bytes: Of this, what batches and threads take.

        Raises:
            TooLargeError: It is less than what is needed.
        """
        most = most_chunks(self.schedule)
        least = [_WINDOWS * n for n in self._chunks_of(most)]
        least = [min(n, all_of) for n, all_of in zip(least, self.all_slots, strict=True)]
        if memory_bytes is None:
            return tuple(least)

        def kept(n_anchors: int) -> list[int]:
            return [max(a, b) for a, b in zip(self._chunks_of(n_anchors), least, strict=True)]

        fitting = bisect_right(
            range(len(self.anchors) + 1),
            memory_bytes - other_bytes,
            key=lambda n_anchors: kept_bytes(self.columns, kept(n_anchors)),
        )
        if not fitting:
            raise self._too_large(memory_bytes, kept_bytes(self.columns, least), other_bytes)
        return tuple(kept(fitting - 1))

    def reads(self, epoch: int) -> tuple[int, int]:
        """Stored chunks that the windows of an epoch read, and how many different ones there are.

        All positions of a batch together, and nothing kept from one window for a later one.
        """
        width = max(1, most_chunks(self.schedule))
        spans = self.schedule.spans[self.schedule.order(epoch)]
        window = np.arange(len(spans)) // width
        is_used = spans[:, 1] > spans[:, 0]
        read = different = 0
        for column in self.columns:
            touched = [
                _touched(spans[is_used] + offset, window[is_used], column.chunk_rows)
                for offset in column.offsets
            ]
            pairs = np.concatenate(touched)
            read += len(np.unique(pairs, axis=0)) * column.reads_per_chunk
            different += len(np.unique(pairs[:, 1])) * column.reads_per_chunk
        return read, different

    def _chunks_of(self, n_anchors: int) -> list[int]:
        return [column.most_chunks(self.anchor_rows, n_anchors) for column in self.columns]

    def _too_large(self, memory_bytes: int, blocks: int, others: int) -> TooLargeError:
        most = most_chunks(self.schedule)
        fits = int((memory_bytes - others) / max(1, blocks) * most)
        todo = f"Give window_chunks={fits}" if fits > 0 else "Give a smaller batch"
        return TooLargeError(
            f"{_WINDOWS} windows of {most} chunks take {blocks:,} bytes, batches and threads "
            f"{others:,}; memory={memory_bytes:,}. {todo}, or more memory."
        )


class Uses:
    """When each chunk is needed next, as a number to compare."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        n_anchors = int(recipe.anchors.max(initial=-1)) + 2
        self._place_of = np.full(n_anchors, -1, np.int64)
        self._place_of[recipe.anchors] = np.arange(len(recipe.anchors))
        self._turns = lru_cache(2)(partial(_turns, recipe.schedule))  # this epoch's and the next's

    def after(
        self, column: int, chunks: Rows, *, epoch: int, last: int
    ) -> Int64[np.ndarray, " chunks"]:
        """When chunks are needed again, after the `last` chunk in the order of an epoch.

        The order of the next epoch is known too, so what is needed first is kept, and no guess of
        the kind that keeps what was used last.
        """
        rows = chunks * self._recipe.columns[column].chunk_rows
        anchors = np.minimum(rows // self._recipe.anchor_rows, len(self._place_of) - 1)
        places = self._place_of[anchors]
        turns = self._turns(epoch)[places]
        return np.where(turns > last, turns, len(turns) + self._turns(epoch + 1)[places])


def _turns(schedule: Schedule, epoch: int) -> Rows:
    """When each chunk comes in the order of an epoch."""
    order = schedule.order(epoch)
    turns = np.empty_like(order)
    turns[order] = np.arange(len(order))
    return turns


def _touched(
    spans: Int64[np.ndarray, "spans 2"], window: Rows, chunk_rows: int
) -> Int64[np.ndarray, "pairs 2"]:
    """The window and chunk of every chunk that spans of rows touch."""
    first, last = spans[:, 0] // chunk_rows, (spans[:, 1] - 1) // chunk_rows
    n = last - first + 1
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    return np.stack([np.repeat(window, n), np.repeat(first, n) + within], axis=1)
