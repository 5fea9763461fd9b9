"""Contenders of loading side by side, each measurement in a fresh process."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load_data import Data
from load_job import Job
from table import seconds
from timing import Ratio, Timing, order, ratio

PROBE = Path(__file__).parent / "load_probe.py"
LIMIT_S = 600.0  # for one process; the slowest takes seconds
ATTEMPTS = 3  # a peer may fail; insitubatch 0.2.0 does, about once in 40 epochs on a busy machine


class FailedError(RuntimeError):
    """A process that was measured ended with an error."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the runs of one contender reported, in the order of rounds."""

    runs: tuple[dict[str, Any], ...]

    @property
    def timing(self) -> Timing:
        """Of the epochs."""
        wall_s, cpu_s = ([run[name] for run in self.runs] for name in ("wall_s", "cpu_s"))
        return Timing(tuple(wall_s), tuple(cpu_s))

    def median(self, name: str) -> float:
        """Of one of the numbers that `load_probe` prints."""
        return float(statistics.median(run[name] for run in self.runs))

    def faster_than(self, other: Measured) -> Ratio:
        """How many times."""
        return ratio(other.timing, self.timing)


@dataclass(frozen=True, slots=True)
class LoadBench:
    """One benchmark run."""

    data: Data
    rounds: int
    timings: list[dict[str, Any]] = field(default_factory=list)  # of all rows, for the JSON lines
    without: frozenset[str] = frozenset()  # contenders that shall not run
    absent: dict[str, str] = field(default_factory=dict)  # contender: why it cannot run here
    program: Path = PROBE  # measures one job

    def measure(
        self, row: str, jobs: Mapping[str, Job], environment: Mapping[str, str] | None = None
    ) -> dict[str, Measured]:
        """Interleave contenders, print what they took, and note it; absent ones are left out."""
        print(f"\n{row}: {len(jobs)} contenders, {self.rounds} rounds", flush=True)
        self.absent.update(
            {name: "left out" for name, job in jobs.items() if job.contender in self.without}
        )
        taken: dict[str, list[dict[str, Any]]] = {
            name: [] for name, job in jobs.items() if job.contender not in self.without
        }
        # A round that does not count fills the page cache; a single round is only to see it work.
        for turn in range(-1 if self.rounds > 1 else 0, self.rounds):
            for name in order(list(taken), max(turn, 0)):
                run = probe(self.program, jobs[name], environment or {})
                if "absent" in run:
                    print(f"  {name}: {run['absent']}", flush=True)
                    self.absent[name] = run["absent"]
                    del taken[name]
                elif turn >= 0:
                    taken[name].append(run)
        measured = {name: Measured(tuple(runs)) for name, runs in taken.items()}
        for name, found in measured.items():
            self.note(row, name, found)
        return measured

    def note(self, row: str, name: str, found: Measured) -> None:
        """Print a line, keep all numbers."""
        wall_s = found.timing.wall_s
        print(
            f"  {name:26s} {seconds(found.timing.median_s):>8s}"
            f"   ({seconds(min(wall_s))} to {seconds(max(wall_s))})"
            f"   CPU {seconds(found.median('cpu_s')):>8s}"
            f"   {found.median('added_bytes') / 2**20:4.0f} MiB",
            flush=True,
        )
        runs = {name: [run[name] for run in found.runs] for name in found.runs[0]}
        self.timings.append({"row": row, "contender": name, **runs})


def probe(program: Path, job: Job, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one process; peers that fail are run again, and said so."""
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(
            [sys.executable, program, json.dumps(dataclasses.asdict(job))],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=os.environ | environment,
            check=False,
        )
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found if "absent" in found else {**found, "attempts": attempt}
        last_line = done.stderr.strip().rpartition("\n")[2]
        print(f"  {job.contender} failed: {last_line}", flush=True)
        if job.contender.startswith("jaxstore"):
            break
    raise FailedError(f"{job.contender} at {job.place}, {attempt} times:\n{done.stderr}")
