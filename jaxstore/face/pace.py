"""How fast a run commits, how far it is, and how well its chains agree so far.

Owned here: the numbers of `jaxstore watch`, from commits that it has seen. How they look is
`watch`'s; nothing here writes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxstore.face.curves import choose_leaves, label_of
from jaxstore.saving.run import Run
from jaxstore.saving.stored import StoredArray

PACE_S = 30.0  # over which speed is a mean; commits come in bursts
MOST_COMPONENTS = 50  # of which R-hat and ESS are computed, in about 0.1 s
MOST_DRAWS = 2000  # of each chain, for the same
LOOK_BYTES = 32 * 2**20  # in memory at a time for a look at new draws,
LOOK_S = 1.0  # which takes about so long at most, however many there are
LEAST_DRAWS = 20  # of each chain, below which R-hat says nothing


class Moment(NamedTuple):
    """How far a run was when it was looked at."""

    at_s: float  # on a clock that never goes back
    draws: int  # of all chains
    steps: int  # of the sampler


@dataclass(slots=True)
class Pace:
    """Draws and steps per second, over the last looks."""

    moments: deque[Moment] = field(default_factory=deque)

    def add(self, moment: Moment) -> None:
        """Take a look into account; a run that was cut back begins anew."""
        if self.moments and moment.draws < self.moments[-1].draws:
            self.moments.clear()
        self.moments.append(moment)
        # Two are kept, however long ago: a run may commit more seldom than this.
        while len(self.moments) > 2 and moment.at_s - self.moments[1].at_s > PACE_S:
            self.moments.popleft()

    def per_s(self) -> tuple[float, float] | None:
        """Draws and steps per second; None where it is too early to tell.

        >>> pace = Pace()
        >>> pace.add(Moment(0.0, 0, 0)), pace.add(Moment(2.0, 100, 50)), pace.per_s()
        (None, None, (50.0, 25.0))
        """
        if len(self.moments) < 2 or self.moments[-1].draws == self.moments[0].draws:
            return None
        first, last = self.moments[0], self.moments[-1]
        took = max(last.at_s - first.at_s, 1e-9)
        return (last.draws - first.draws) / took, (last.steps - first.steps) / took


def steps_done(run: Run) -> int:
    """Steps of the sampler up to the last committed draw, 0 without one."""
    longest = int(np.argmax(run.sample_count)) if run.n_chains else 0
    n = int(run.sample_count.max(initial=0))
    return int(run.steps[longest, n - 1]) + 1 if n else 0


def seconds_since(moment: str) -> float | None:
    """Seconds since a moment in ISO 8601; None where it is none."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


class Agreement(NamedTuple):
    """How well the chains agree, as of so many draws."""

    r_hat: tuple[tuple[str, float], ...]  # component and value, the worst first
    ess: tuple[tuple[str, float], ...]
    n_draws: int  # of each chain, seen for it
    n_components: int  # of which it was computed
    n_all: int  # that there are


class Gauge:
    """R-hat and ESS of a growing run, at a bounded cost: every draw is read once, few are kept.

    Of each chain at most 2,000 draws are kept, evenly apart: every second one is dropped whenever
    there are more. What a look may read is bounded too, so that it may lag behind a large run.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._kept: Float[np.ndarray, "chain draw component"] | None = None
        self._labels: list[str] = []
        self._apart = 1  # draws between two that are kept
        self._seen = 0  # draws of each chain
        self._n_all = 0

    def look(self, run: Run) -> bool:
        """Take new draws of a run into account, for about a second; whether there were any."""
        shortest = int(run.sample_count.min(initial=2**62)) if run.n_chains else 0
        if self._kept is not None and (shortest < self._seen or run.n_chains != len(self._kept)):
            self._begin()  # cut back, or more chains than before
        leaves = choose_leaves(run, names=(), group=None)
        picked = list(pick(leaves, most=MOST_COMPONENTS))
        if shortest == self._seen or not picked:
            return False
        if not self._labels:
            group = leaves[0].name.partition("/")[0]
            self._labels = [label_of(leaf, index, group=group) for leaf, index in picked]
            self._n_all = sum(int(np.prod(leaf.shape[2:])) for leaf in leaves)
        began = time.monotonic()
        while self._seen < shortest and time.monotonic() - began < LOOK_S:
            self._take(self._read(picked, shortest))
        return True

    def _read(
        self, picked: list[tuple[StoredArray, tuple[int, ...]]], shortest: int
    ) -> Float[np.ndarray, "chain draw component"]:
        """The next draws, as many as one look may hold."""
        chosen = {leaf.name: leaf for leaf, _ in picked}
        draw_bytes = sum(leaf.leaf.draw_bytes * len(leaf.chains) for leaf in chosen.values())
        stop = min(shortest, self._seen + max(1, LOOK_BYTES // max(1, draw_bytes)))
        rows = {name: leaf[:, self._seen : stop] for name, leaf in chosen.items()}
        columns = [number(rows[leaf.name][:, :, *index]) for leaf, index in picked]
        return np.stack(columns, axis=-1)

    def agreement(self) -> Agreement | None:
        """R-hat and ESS of what was seen; None where ArviZ is missing, or too little was seen."""
        if self._kept is None or self._kept.shape[1] < LEAST_DRAWS or find_spec("arviz") is None:
            return None
        import arviz
        import xarray

        data = xarray.Dataset({"x": (("chain", "draw", "component"), self._kept)})
        with np.errstate(all="ignore"):
            r_hat = arviz.rhat(data)["x"].values
            # Of thinned chains: what all draws are worth is more.
            ess = arviz.ess(data)["x"].values
        return Agreement(
            worst(self._labels, r_hat, is_high_bad=True),
            worst(self._labels, ess, is_high_bad=False),
            self._seen,
            len(self._labels),
            self._n_all,
        )

    def _take(self, values: Float[np.ndarray, "chain draw component"]) -> None:
        first = -self._seen % self._apart
        self._seen += values.shape[1]
        new = values[:, first :: self._apart]
        self._kept = new if self._kept is None else np.concatenate([self._kept, new], axis=1)
        while self._kept.shape[1] > MOST_DRAWS:
            self._kept = self._kept[:, ::2]
            self._apart *= 2


def pick(leaves: list[StoredArray], *, most: int) -> Iterator[tuple[StoredArray, tuple[int, ...]]]:
    """Components of leaves, evenly over all that there are."""
    sizes = [int(np.prod(leaf.shape[2:], dtype=np.int64)) for leaf in leaves]
    total = sum(sizes)
    if total == 0:
        return
    wanted = np.unique(np.linspace(0, total - 1, min(most, total)).astype(np.int64)).tolist()
    ends = np.cumsum(sizes)
    for i in wanted:
        at = int(np.searchsorted(ends, i, side="right"))
        inside = i - (int(ends[at]) - sizes[at])
        inner = leaves[at].shape[2:]
        yield leaves[at], tuple(map(int, np.unravel_index(inside, inner))) if inner else ()


def number(values: Any) -> Float[np.ndarray, "chain draw"]:
    """Values as float64; complex ones as their magnitude."""
    values = np.asarray(values)
    return (np.abs(values) if values.dtype.kind == "c" else values).astype(np.float64)


def worst(
    labels: list[str], values: Float[np.ndarray, " component"], *, is_high_bad: bool, most: int = 3
) -> tuple[tuple[str, float], ...]:
    """The worst components; those that have no value, such as constants, come not at all."""
    order = np.argsort(-values if is_high_bad else values)
    return tuple((labels[i], float(values[i])) for i in order if np.isfinite(values[i]))[:most]
