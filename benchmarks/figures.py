"""Measured figures and their targets.

Owned here: what a figure is and whether it meets its target. How figures look is `table`'s and
`picture`'s.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a figure should keep."""

    limit: float
    is_ceiling: bool  # whether less is better

    def margin(self, value: float) -> float:
        """How many times better than asked; below 1 the target is missed.

        >>> at_most(1.25).margin(1.0), at_least(50).margin(25)
        (1.25, 0.5)
        """
        if self.is_ceiling:
            return self.limit / max(value, 1e-9)
        return value / self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.is_ceiling else '>='} {self.limit:g}"


def at_most(limit: float) -> Target:
    """Less is better."""
    return Target(limit, is_ceiling=True)


def at_least(limit: float) -> Target:
    """More is better."""
    return Target(limit, is_ceiling=False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    row: str  # "scan_memory"
    what: str  # what was compared with what
    value: float | None  # a ratio; None where it could not be measured, and `against` says why
    against: str  # both sides with units, the bound or the peer
    target: Target | None = None  # None: for information
    low: float | None = None  # the extremes over rounds, where there are rounds
    high: float | None = None

    @property
    def verdict(self) -> str:
        """Met, or missed by how much.

        >>> Figure("a", "b", 1.5, "", at_most(1.25)).verdict
        'missed, 20 % above'
        >>> Figure("a", "b", 25, "", at_least(50)).verdict
        'missed, 50 % below'
        """
        if self.value is None:
            return "not measured"
        if self.target is None:
            return "information"
        if self.target.margin(self.value) >= 1:
            return "met"
        off = abs(self.value / self.target.limit - 1) * 100
        return f"missed, {off:.0f} % {'above' if self.target.is_ceiling else 'below'}"
