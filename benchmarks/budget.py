"""How many rounds fit into the time that is given. Pure: measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_ROUNDS = 7
SETTLED_S = 60.0  # of estimated time, after which it counts how long it took instead


class Cost(NamedTuple):
    """What a row takes on two cores of an AMD EPYC."""

    start_s: float  # compiling, and what is done once
    round_s: float


def estimated_s(costs: Sequence[Cost], rounds: int) -> float:
    """Of so many rounds of all rows.

    >>> estimated_s([Cost(10.0, 2.0), Cost(0.0, 1.0)], 3)
    19.0
    """
    return sum(cost.start_s + rounds * cost.round_s for cost in costs)


def rounds_within(costs: Sequence[Cost], left_s: float) -> int:
    """As many rounds of all rows as end in time; one at least.

    >>> costs = [Cost(10.0, 2.0), Cost(0.0, 1.0)]
    >>> rounds_within(costs, 19.0), rounds_within(costs, 18.9), rounds_within(costs, 0.0)
    (3, 2, 1)
    """
    fitting = [
        rounds for rounds in range(1, MOST_ROUNDS + 1) if estimated_s(costs, rounds) <= left_s
    ]
    return max(fitting, default=1)


def slowness(spent_s: float, expected_s: float) -> float:
    """How many times as long as estimated this machine takes; 1 until enough was measured.

    >>> slowness(300.0, 100.0), slowness(3.0, 1.0)
    (3.0, 1.0)
    """
    return spent_s / expected_s if expected_s >= SETTLED_S else 1.0
