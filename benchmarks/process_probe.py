"""Compute once in this fresh process, check the result, and print what it took as a JSON line.

Usage: python process_probe.py JOB          JOB is a `process_job.Job` as JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import process_ensemble
import process_floor
import process_ours
import process_peers
from load_job import AbsentError
from load_probe import TOUCHED_BYTES, cpu_s, touch_memory
from process_data import CHUNK_ROWS, ITEM_BYTES, remove
from process_job import Contender, Job, Read, Run
from process_kernels import KERNELS
from resident import forget_peak, peak_bytes, resident_bytes

CONTENDERS: dict[str, Contender] = {
    **process_floor.CONTENDERS,
    **process_peers.CONTENDERS,
    **process_ours.CONTENDERS,
    **process_ensemble.CONTENDERS,
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
        if not process_ensemble.is_right(read(slice(0, job.n_items))):
            raise ValueError(f"{job.contender}: paths have other moments than they must have")
        return
    kernel = KERNELS[job.kernel]
    last = job.n_items - CHUNK_ROWS
    starts = {0, last // 2, last}
    parts = [slice(start, start + CHUNK_ROWS) for start in sorted(starts)]
    for items in [slice(0, job.n_items)] if not kernel.is_large else parts:
        if not kernel.is_right(np.arange(job.n_items)[items], read(items)):
            raise ValueError(f"{job.contender}: what {job.kernel!r} gave for {items} is wrong")


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    try:
        run, read = CONTENDERS[job.contender](job)
    except ModuleNotFoundError as error:
        print(json.dumps({"absent": f"{error.name} is not installed"}))
        return
    except AbsentError as error:
        print(json.dumps({"absent": str(error)}))
        return
    try:
        found = measure(job, run)
        if read is not None:
            check(job, read)
    finally:
        if not job.n_results:
            remove(Path(job.target))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
