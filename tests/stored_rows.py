"""Data sets whose rows tell who they are, and a source that counts what is read of it."""

from __future__ import annotations

import threading
import time

import numpy as np

from jaxstore.sources.geometry import ArrayGeometry


def numbered(n_rows: int, shape: tuple[int, ...] = (3,), dtype: str = "f4") -> np.ndarray:
    """Rows whose elements are 1000 r, 1000 r + 1, ..."""
    size = int(np.prod(shape))
    values = np.arange(n_rows)[:, None] * 1000 + np.arange(size)
    return values.astype(dtype).reshape(n_rows, *shape)


class CountingSource:
    """Rows in memory as a store would give them, chunk by chunk; it notes every read.

    Args:
        name: Of the array.
        values: Rows on axis 0.
        chunk_rows: Rows per chunk.
        pause_s: That a read takes.
        fails_at: Chunk whose read raises `error`.
    """

    is_remote = False
    location = "memory"

    def __init__(self, name, values, chunk_rows, *, pause_s=0.0, fails_at=None, error=None):
        self.values = values
        self.geometry = ArrayGeometry(
            name, values.shape, (chunk_rows, *values.shape[1:]), values.dtype
        )
        self.pause_s, self.fails_at, self.error = pause_s, fails_at, error
        self.chunks = []
        self.most_inflight = self._inflight = 0
        self._lock = threading.Lock()
        self.is_closed = False

    def stored_chunks(self, chunk):
        return [(chunk, *(0,) * (self.values.ndim - 1))]

    def read(self, index, rows):
        with self._lock:
            self.chunks.append(index[0])
            self._inflight += 1
            self.most_inflight = max(self.most_inflight, self._inflight)
        try:
            if self.pause_s:
                time.sleep(self.pause_s)
            if index[0] == self.fails_at:
                raise self.error
            held = self.geometry.samples_in_chunk(index[0])
            rows[...] = self.values[held.start : held.stop]
            return rows.nbytes
        finally:
            with self._lock:
                self._inflight -= 1

    def close(self):
        self.is_closed = True
