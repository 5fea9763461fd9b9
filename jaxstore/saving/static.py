"""What is known of a chain before it runs.

Owned here: the record, and what it may say.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StaticInformation:
    """Known before a run: how many draws each chain will keep."""

    samples_collected: int

    def __post_init__(self) -> None:
        n = self.samples_collected
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ValueError(f"samples_collected must be a whole number >= 0, got {n!r}")


def static_information(*, samples_collected: int) -> StaticInformation:
    """Declare how many draws each chain will keep, so that memory is taken once.

    Fewer are fine. More raise `TooManyDrawsError`, with those declared saved.

    >>> static_information(samples_collected=3)
    StaticInformation(samples_collected=3)
    """
    return StaticInformation(samples_collected)


def declared_draws(information: StaticInformation | None) -> int | None:
    """The declared number, from any object that has one; None if nothing is declared."""
    return None if information is None else int(information.samples_collected)
