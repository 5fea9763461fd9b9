"""A loader written by hand for this data set alone: what a plain design reaches.

Two blocks of a window each: one is drained while threads fill the other; one `np.take` gathers a
batch. It knows dtype, shapes and codec, has no options, and stops at no damage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.loading.bounds import THREADS, local_reader
from benchmarks.loading.data import BATCH_ROWS, CHUNK_ROWS, INNER, WINDOW_CHUNKS
from benchmarks.loading.job import Epoch, Job, Opener, Piece

ALIGNED = 64  # bytes; JAX aliases such buffers on a CPU


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialized float32 that begins at such an address."""
    n_bytes = int(np.prod(shape)) * 4
    raw = np.empty(n_bytes + ALIGNED, "u1")
    at = -raw.ctypes.data % ALIGNED
    return raw[at : at + n_bytes].view("f4").reshape(shape)


class Buffers:
    """Batch buffers, used again when nobody holds them."""

    def __init__(self) -> None:
        self.all: list[dict[str, np.ndarray]] = []

    def free(self) -> dict[str, np.ndarray]:
        """One that nobody holds."""
        for batch in self.all:
            # Held here: by the dictionary, the loop and the call's own argument.
            if all(sys.getrefcount(array) <= 3 for array in batch.values()):
                return dict(batch)
        self.all.append({v: aligned((BATCH_ROWS, *inner)) for v, inner in INNER.items()})
        return dict(self.all[-1])


def hand_written(job: Job) -> Opener:
    """One shuffled epoch."""
    read = local_reader(job.place)
    window_rows = WINDOW_CHUNKS * CHUNK_ROWS

    def opener() -> Epoch:
        blocks = [
            {v: np.empty((window_rows, *inner), "f4") for v, inner in INNER.items()}
            for _ in range(2)
        ]
        buffers = Buffers()

        def epoch() -> Iterator[Piece]:
            rng = np.random.default_rng(job.seed)
            chunks = rng.permutation(job.n_rows // CHUNK_ROWS)
            windows = np.split(chunks, range(WINDOW_CHUNKS, len(chunks), WINDOW_CHUNKS))

            def fill(pool: ThreadPoolExecutor, window: int) -> list[Future[Any]]:
                return [
                    pool.submit(read, v, chunk, block[k * CHUNK_ROWS : (k + 1) * CHUNK_ROWS])
                    for k, chunk in enumerate(windows[window])
                    for v, block in blocks[window % 2].items()
                ]

            with ThreadPoolExecutor(THREADS) as pool:
                pending = fill(pool, 0)
                for window in range(len(windows)):
                    for future in pending:
                        future.result()
                    pending = fill(pool, window + 1) if window + 1 < len(windows) else []
                    order = rng.permutation(len(windows[window]) * CHUNK_ROWS)
                    for start in range(0, len(order), BATCH_ROWS):
                        batch, chosen = buffers.free(), order[start : start + BATCH_ROWS]
                        for v, target in batch.items():
                            block = blocks[window % 2][v]
                            np.take(block, chosen, axis=0, out=target, mode="clip")
                        target = None
                        yield Piece(batch)
                        batch = None

        return epoch

    return opener


CONTENDERS = {"hand-written": hand_written}
