"""How a process is run, which changes no bit of its result.

Owned here: which settings make sense, and the words for those that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxstore.processing.job import Care


@dataclass(frozen=True, slots=True)
class Options:
    """All about a call of `process` but what is computed."""

    memory_bytes: int
    batch_size: int | None  # None: by what fits
    unit_items: int | None  # items of an output chunk; None: by what fits
    engine: Any  # None, "serial", "threads", "mpi", or a client of dask
    workers: int | None
    override: bool
    resume: Any  # a bool, or a Result
    care: Care
    shows_progress: bool
    compression: str | None
    durable: bool

    def __post_init__(self) -> None:
        for name in ("batch_size", "unit_items", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                word = {"unit_items": "chunks"}.get(name, name)
                raise ValueError(f"{word} must be >= 1, got {value}")
        if self.override and self.resume not in (True, False):
            raise ValueError("override starts afresh, and resume names a result. Leave out one.")
