"""What a fresh process is asked to compute, and how a contender does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True, slots=True)
class Job:
    """One computation of one contender."""

    PROGRAM: ClassVar[str] = "benchmarks.processing.probe"
    contender: str
    kernel: str  # of `kernels`
    place: str  # path or URL of the store with the spectra
    n_items: int
    target: str  # path of a store; what a run wrote is looked at, and removed
    memory_bytes: int
    n_results: int = 0  # that are there before the clock starts; they stay

    @property
    def is_hdf5(self) -> bool:
        """Whether the source is, and so the result."""
        return self.place.endswith(".h5")


Outputs = dict[str, np.ndarray]
Run = Callable[[], None]  # timed, with opening and compiling; the imports before it are not
Read = Callable[[slice], Outputs]  # what was stored for some items
Contender = Callable[[Job], tuple[Run, Read | None]]  # None: of a bound, which stores nothing
