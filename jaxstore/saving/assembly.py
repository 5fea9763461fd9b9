"""Rows of one array, gathered until they fill whole chunks.

Owned here: which pieces are joined and where they go. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxstore.saving.block import HostArray


class Strand:
    """Rows of one array for chains that advance together.

    Args:
        chunk_draws: Draws per chunk; what `push` gives are whole chunks, and several at once.
        start: Draws that are in the store already, whole chunks too.
    """

    def __init__(self, chunk_draws: int, start: int = 0) -> None:
        self._chunk_draws = chunk_draws
        self._pieces: list[HostArray] = []
        self._waiting = 0
        self._tail_end = 0
        self.stored = start  # draws in whole chunks, and in the short last one after `rest`

    @property
    def waiting(self) -> int:
        """Draws that wait for their chunk to fill."""
        return self._waiting

    @property
    def shown(self) -> int:
        """Draws that are in the store, those of the tail included."""
        return max(self.stored, self._tail_end)

    def wait(self, rows: HostArray) -> None:
        """Begin with rows that wait for their chunk to fill, and are in the store for now."""
        self._pieces, self._waiting = [rows], rows.shape[1]
        self._tail_end = self.stored + self._waiting

    def push(self, rows: HostArray) -> Iterator[tuple[int, HostArray]]:
        """Add rows (n_chains, n_draws, ...); gives (first draw, whole chunks of rows).

        Where a piece fills chunks by itself it is passed on as a view, without a copy.
        """
        while rows.shape[1]:
            if self._waiting:
                n = min(self._chunk_draws - self._waiting, rows.shape[1])
            else:
                n = rows.shape[1] // self._chunk_draws * self._chunk_draws or rows.shape[1]
            self._pieces.append(rows[:, :n])
            self._waiting += n
            rows = rows[:, n:]
            if self._waiting % self._chunk_draws == 0:
                yield from self._take()

    def tail(self) -> Iterator[tuple[int, HostArray]]:
        """What waits, to be written for now; it still waits, and comes again with its chunk."""
        if self._waiting:
            if len(self._pieces) > 1:
                self._pieces = [np.concatenate(self._pieces, axis=1)]
            yield self.stored, self._pieces[0]
            self._tail_end = self.stored + self._waiting

    def rest(self) -> Iterator[tuple[int, HostArray]]:
        """What waits, as a last short chunk; nothing may be pushed afterwards."""
        if self._waiting:
            yield from self._take()

    def split(self, n_chains: int) -> list[Strand]:
        """A strand per chain, each with its part of what waits."""
        strands = [Strand(self._chunk_draws, self.stored) for _ in range(n_chains)]
        for i, strand in enumerate(strands):
            strand._pieces = [piece[i : i + 1] for piece in self._pieces]
            strand._waiting = self._waiting
            strand._tail_end = self._tail_end
        return strands

    def _take(self) -> Iterator[tuple[int, HostArray]]:
        pieces, n = self._pieces, self._waiting
        self._pieces, self._waiting = [], 0
        yield self.stored, pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
        self.stored += n  # not reached if writing the rows raised: then they do not count
