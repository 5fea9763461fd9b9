"""What a fresh process is asked to read, and how contenders hand over what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Job:
    """One epoch of one contender, or a few."""

    PROGRAM: ClassVar[str] = "benchmarks.loading.probe"
    contender: str
    place: str  # path or URL of a store
    n_rows: int
    step_s: float = 0.0  # sleep after each batch, as if an accelerator worked on it
    epochs: int = 1  # the last one is timed; beyond the first, opening does not count
    seed: int = 0

    @property
    def is_url(self) -> bool:
        """Whether the store is behind a network."""
        return "://" in self.place


class Piece(NamedTuple):
    """Rows of one or all variables."""

    arrays: dict[str, Any]
    rows: np.ndarray | None = None  # their numbers, where the contender says so


Epoch = Callable[[], Iterator[Piece]]
Opener = Callable[[], Epoch]  # timed, the imports before it are not
