"""What fresh processes report, and how many times one contender is another.

Owned here: starting one, reading its answer, ratios of answers. What it does is `probe`'s.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from benchmarks.figures import Figure, Target
from benchmarks.table import seconds
from benchmarks.timing import Ratio, Timing, ratio

ROOT = Path(__file__).parent.parent  # of the checkout, from which children import
LIMIT_S = 600.0  # for one process; the slowest takes seconds
ATTEMPTS = 3  # a peer may fail; insitubatch 0.2.0 does, about once in 40 epochs on a busy machine


class Job(Protocol):
    """What a fresh process is asked to do; a dataclass, so that it travels as JSON."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    PROGRAM: ClassVar[str]  # the module that does it

    @property
    def contender(self) -> str:
        """Who does it."""


class FailedError(RuntimeError):
    """A process that was measured ended with an error."""

    @property
    def last_line(self) -> str:
        """Of what it said."""
        return str(self).strip().rpartition("\n")[2]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the runs of one contender reported, in the order of rounds."""

    runs: tuple[dict[str, Any], ...]

    @property
    def timing(self) -> Timing:
        """Of the runs."""
        wall_s, cpu_s = ([run[name] for run in self.runs] for name in ("wall_s", "cpu_s"))
        return Timing(tuple(wall_s), tuple(cpu_s))

    def median(self, name: str) -> float:
        """Of one of the numbers that a process prints."""
        return float(statistics.median(run[name] for run in self.runs))

    def faster_than(self, other: Measured) -> Ratio:
        """How many times."""
        return ratio(other.timing, self.timing)


def probe(job: Job, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one process; one that fails is run again, and said so, unless it is ours."""
    for attempt in range(1, ATTEMPTS + 1):
        os.sync()  # as in `timing.clock`
        done = child(job.PROGRAM, json.dumps(dataclasses.asdict(job)), environment=environment)
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found if "absent" in found else {**found, "attempts": attempt}
        failed = FailedError(f"{job.contender}, attempt {attempt}:\n{done.stderr}")
        print(f"  {job.contender} failed: {failed.last_line}", flush=True)
        if job.contender.startswith("jaxstore"):
            break
    raise failed


def child(
    module: str, *arguments: object, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a module of the benchmark in a fresh process."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=ROOT,
        # Targets without the word GPU are for the processor, whatever else is there.
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the contenders of one row took, to be compared with one another."""

    row: str
    found: Mapping[str, Measured]
    absent: Mapping[str, str]  # contender: why it is not among them
    show: Callable[[Measured], str] = lambda found: seconds(found.timing.median_s)

    def faster(self, a: str, b: str, target: Target | None = None, note: str = "") -> Figure:
        """How many times faster `a` is than `b`."""
        return self.times(f"{a}, speed / {b}", a, b, target, note=note)

    def slower(self, a: str, b: str, target: Target | None = None) -> Figure:
        """How many times as long `a` takes as `b`."""
        return self.times(f"{a}, seconds / {b}", a, b, target, is_slower=True)

    def times(
        self,
        what: str,
        a: str,
        b: str,
        target: Target | None,
        *,
        is_slower: bool = False,
        note: str = "",
    ) -> Figure:
        """One figure, with both sides in words."""
        for name in (a, b):
            if name not in self.found:
                return Figure(self.row, what, None, self.absent[name], target)
        fast, slow = (a, b) if not is_slower else (b, a)
        times = self.found[fast].faster_than(self.found[slow])
        against = " / ".join(self.show(self.found[name]) for name in (a, b))
        return Figure(self.row, what, times.value, against + note, target, times.low, times.high)
