"""Timing contenders side by side in one process.

Owned here: the order of runs, what the clock covers, and ratios. What contenders do is their row's.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


def nothing() -> None:
    """Clean nothing."""


class Contender(NamedTuple):
    """Something to time, compiled by its first run, which does not count."""

    run: Callable[[], object]  # timed; what it returns is dropped after the clock stopped
    clean: Callable[[], None] = nothing  # after each run, not timed


@dataclass(frozen=True, slots=True)
class Timing:
    """What the runs of one contender took, in the order of rounds."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]  # of all threads of this process

    @property
    def median_s(self) -> float:
        """Median wall time."""
        return statistics.median(self.wall_s)

    @property
    def spread_s(self) -> float:
        """Distance of the quartiles of wall time."""
        if len(self.wall_s) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.wall_s, n=4, method="inclusive")
        return high - low


class Ratio(NamedTuple):
    """A ratio of medians, and the lowest and highest ratio within one round."""

    value: float
    low: float
    high: float


def interleave(contenders: Mapping[str, Contender], *, rounds: int) -> dict[str, Timing]:
    """Run every contender once per round, in another order each time."""
    names = list(contenders)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for name in names:
        clock(contenders[name])
    for turn in range(rounds):
        for name in order(names, turn):
            taken[name].append(clock(contenders[name]))
    return {
        name: Timing(tuple(wall for wall, _ in times), tuple(cpu for _, cpu in times))
        for name, times in taken.items()
    }


def touch_memory(n_bytes: int) -> None:
    """Write to that much memory and give it back, before anything is timed.

    A virtual machine gets its memory when it first touches it. A copy of 400 MB into pages that
    it had never had took 900 ms, into others 25 ms.
    """
    np.ones(n_bytes, np.uint8)


def order(names: list[str], turn: int) -> list[str]:
    """Names rotated by the round, and every other round backwards: no one always comes first.

    >>> order(["a", "b", "c"], 0), order(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['a', 'c', 'b'])
    """
    first = turn % len(names)
    rotated = names[first:] + names[:first]
    return rotated[::-1] if turn % 2 else rotated


def clock(contender: Contender) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    gc.collect()
    os.sync()  # what the one before left to be written is no time of this one
    wall, cpu = time.perf_counter(), time.process_time()
    result = contender.run()
    took = time.perf_counter() - wall, time.process_time() - cpu
    del result
    contender.clean()
    return took


def ratio(a: Timing, b: Timing) -> Ratio:
    """How many times longer `a` took than `b`.

    >>> ratio(Timing((2.0, 3.0, 9.0), ()), Timing((1.0, 2.0, 1.0), ()))
    Ratio(value=3.0, low=1.5, high=9.0)
    """
    by_round = [x / y for x, y in zip(a.wall_s, b.wall_s, strict=True)]
    return Ratio(a.median_s / b.median_s, min(by_round), max(by_round))


def added_s(timing: Timing, bare: Timing) -> float:
    """What `timing` took beyond `bare`; no less than what the noise of both can hide."""
    hidden = max(timing.spread_s, bare.spread_s, 1e-9)
    return max(timing.median_s - bare.median_s, hidden)
