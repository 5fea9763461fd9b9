"""What every row is given: places for files, rounds, and a clock that keeps notes.

Owned here: how contenders take turns, in this process or each in a fresh one. What they do is
their row's, what came out of fresh processes `measured`'s.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measured import FailedError, Job, Measured, probe
from benchmarks.table import seconds
from benchmarks.timing import Contender, Timing, interleave, order, touch_memory

TOUCHED_BYTES = 3 * 2**30  # about what a row of saving takes at most, results and file cache


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark run, or one row of it."""

    folder: Path  # absolute; keeps data sets
    scratch: Path  # on the same file system, exists; all in it is removed between runs
    rounds: int
    is_quick: bool = False  # sizes that only show that it works
    without: frozenset[str] = frozenset()  # contenders that shall not run
    pymc_python: Path | None = None  # interpreter of an environment that has PyMC
    timings: list[dict[str, Any]] = field(default_factory=list)  # of all rows, for the JSON lines
    absent: dict[str, str] = field(default_factory=dict)  # contender: why it did not run
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def time(self, row: str, contenders: Mapping[str, Contender]) -> dict[str, Timing]:
        """Interleave contenders in this process, print what they took, and note it."""
        if not self.is_quick:
            touch_memory(TOUCHED_BYTES)
        timings = interleave(contenders, rounds=self.rounds)
        for name, timing in timings.items():
            self.note(row, name, {"wall_s": timing.wall_s, "cpu_s": timing.cpu_s})
        return timings

    def measure(
        self, row: str, jobs: Mapping[str, Job], environment: Mapping[str, str] | None = None
    ) -> dict[str, Measured]:
        """Interleave contenders, each run in a fresh process; absent ones are left out."""
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
        for name, job in jobs.items():
            if job.contender in self.without:
                self.leave_out(name, "left out")
                del taken[name]
        for turn in range(self.rounds):
            for name in order(list(taken), turn):
                try:
                    run = probe(jobs[name], environment or {})
                except FailedError as error:
                    if jobs[name].contender.startswith("jaxstore"):
                        raise
                    run = {"absent": f"failed: {error.last_line}"}
                if "absent" in run:
                    self.leave_out(name, run["absent"])
                    del taken[name]
                else:
                    taken[name].append(run)
        measured = {name: Measured(tuple(runs)) for name, runs in taken.items()}
        for name, found in measured.items():
            self.note(row, name, {key: [run[key] for run in found.runs] for key in found.runs[0]})
        return measured

    def leave_out(self, name: str, why: str) -> None:
        """Say that a contender does not run, and remember why."""
        print(f"  {name}: {why}", flush=True)
        self.absent[name] = why

    def note(self, row: str, contender: str, runs: Mapping[str, Any]) -> None:
        """Print what one contender took, and keep all numbers."""
        wall_s = runs["wall_s"]
        print(
            f"  {contender:32s} {seconds(statistics.median(wall_s)):>9s}"
            f"   ({seconds(min(wall_s))} to {seconds(max(wall_s))})",
            flush=True,
        )
        self.timings.append({"row": row, "contender": contender, **runs})

    def fresh(self, suffix: str = "") -> Path:
        """A path where nothing is."""
        return self.scratch / f"{next(self.numbers)}{suffix}"

    def wipe(self) -> None:
        """Remove all files that runs wrote."""
        for path in self.scratch.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
