"""Compute once in this fresh process, check the result, and print what it took as a JSON line.

Usage: python -m benchmarks.processing.probe JOB          JOB is a `processing.job.Job` as JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataset import remove
from benchmarks.probe import (
    TOUCHED_BYTES,
    answer,
    cpu_s,
    forget_peak,
    peak_bytes,
    resident_bytes,
    touch_memory,
)
from benchmarks.processing import ensemble, floor, ours, peers
from benchmarks.processing.data import CHUNK_ROWS, ITEM_BYTES
from benchmarks.processing.job import Contender, Job, Read, Run
from benchmarks.processing.kernels import KERNELS

CONTENDERS: dict[str, Contender] = {
    **floor.CONTENDERS,
    **peers.CONTENDERS,
    **ours.CONTENDERS,
    **ensemble.CONTENDERS,
}


def measure(job: Job, run: Run) -> dict[str, Any]:
    """What a run takes, and what it adds to what was there after the imports."""
    if job.n_items * ITEM_BYTES > TOUCHED_BYTES / 8:  # not where it is only seen to work
        touch_memory()
    imported_bytes = resident_bytes()
    forget_peak()
    began, cpu = time.perf_counter(), cpu_s()
    run()
    wall_s, used_s = time.perf_counter() - began, cpu_s() - cpu
    return {
        "wall_s": wall_s,
        "cpu_s": used_s,
        "n_bytes": job.n_items * ITEM_BYTES,
        "added_bytes": peak_bytes() - imported_bytes,
        "imported_bytes": imported_bytes,
    }


def check(job: Job, read: Read) -> None:
    """Compare what was stored with what must come out; of large outputs, a few chunks.

    Raises:
        ValueError: It is not that.
    """
    if job.kernel == "path":
        if not ensemble.is_right(read(slice(0, job.n_items))):
            raise ValueError(f"{job.contender}: paths have other moments than they must have")
        return
    kernel = KERNELS[job.kernel]
    last = job.n_items - CHUNK_ROWS
    starts = {0, last // 2, last}
    parts = [slice(start, start + CHUNK_ROWS) for start in sorted(starts)]
    for items in [slice(0, job.n_items)] if not kernel.is_large else parts:
        if not kernel.is_right(np.arange(job.n_items)[items], read(items)):
            raise ValueError(f"{job.contender}: what {job.kernel!r} gave for {items} is wrong")


def computed(job: Job) -> dict[str, Any]:
    """What it took to compute what is right."""
    run, read = CONTENDERS[job.contender](job)
    try:
        found = measure(job, run)
        if read is not None:
            check(job, read)
    finally:
        if not job.n_results:
            remove(Path(job.target))
    return found


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    answer(lambda: computed(job))


if __name__ == "__main__":
    main()
