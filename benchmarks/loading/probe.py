"""Read one epoch in this fresh process, check its rows, and print what it took as a JSON line.

Usage: python -m benchmarks.loading.probe JOB          JOB is a `loading.job.Job` as JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.loading import bounds, floor, ours, peers
from benchmarks.loading.data import INNER, ROW_BYTES
from benchmarks.loading.job import Job, Opener, Piece
from benchmarks.probe import (
    TOUCHED_BYTES,
    answer,
    cpu_s,
    peak_bytes,
    resident_bytes,
    touch_memory,
)

CONTENDERS: dict[str, Callable[[Job], Opener]] = {
    **bounds.CONTENDERS,
    **floor.CONTENDERS,
    **peers.CONTENDERS,
    **ours.CONTENDERS,
}


class Seen:
    """The rows that came, read from the numbers that the data set holds at [:, 0, 0]."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[np.ndarray]] = {v: [] for v in INNER}

    def add(self, piece: Piece) -> None:
        """Note its rows; all variables of a piece must hold the same."""
        # Copied: the buffer may come again with the next batch.
        found = {v: np.array(np.asarray(array)[:, 0, 0]) for v, array in piece.arrays.items()}
        for v, numbers in found.items():
            self.numbers[v].append(numbers)
            expected = next(iter(found.values())) if piece.rows is None else piece.rows
            if not np.array_equal(numbers, expected):
                raise ValueError(f"{v!r}: rows {numbers[:8]} came where {expected[:8]} should be")

    def check(self, n_rows: int) -> bool:
        """Every row came once; whether they came in another order than they are stored."""
        orders = {v: np.concatenate([*numbers, []]) for v, numbers in self.numbers.items()}
        for v, order in orders.items():
            if not np.array_equal(np.sort(order), np.arange(n_rows)):
                raise ValueError(f"{v!r}: {len(order)} rows came, not each of {n_rows} once")
        return bool(np.any(np.diff(next(iter(orders.values()))) < 0))


def measure(job: Job, opener: Opener) -> dict[str, Any]:
    """What the last epoch took; opening is part of the first."""
    imported_bytes = resident_bytes()
    if job.n_rows * ROW_BYTES > TOUCHED_BYTES / 8:  # not where it is only seen to work
        touch_memory()
    began, cpu = time.perf_counter(), cpu_s()
    epoch = opener()
    open_s = time.perf_counter() - began
    for turn in range(job.epochs):
        if turn:
            began, cpu = time.perf_counter(), cpu_s()
        seen, first_s, n_pieces = Seen(), None, 0
        for piece in epoch():
            first_s = first_s or time.perf_counter() - began
            seen.add(piece)
            n_pieces += 1
            if job.step_s:
                time.sleep(job.step_s)
        wall_s, used_s = time.perf_counter() - began, cpu_s() - cpu
    return {
        "wall_s": wall_s,
        "cpu_s": used_s,
        "open_s": open_s,
        "first_s": first_s,
        "n_pieces": n_pieces,
        "n_bytes": job.n_rows * ROW_BYTES,
        "added_bytes": peak_bytes() - imported_bytes,
        "imported_bytes": imported_bytes,
        "is_shuffled": None if job.contender in bounds.UNCHECKED else seen.check(job.n_rows),
    }


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    answer(lambda: measure(job, CONTENDERS[job.contender](job)))


if __name__ == "__main__":
    main()
