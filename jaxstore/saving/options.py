"""Where a collector's run lies, and how it is laid out there.

Owned here: the records, and what they may say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxstore.stores.base import Json, Store


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run lies."""

    name: str  # for messages
    create: Callable[[], Store]  # raises ExistsError where something is
    open: Callable[[], Store]  # to go on writing; raises MissingError where nothing is


@dataclass(frozen=True, slots=True)
class Options:
    """How a collector lays out its run."""

    group: str | None
    dims: Mapping[str, Sequence[str]]
    coords: Mapping[str, Any]
    settings: Mapping[str, Json]
    chunk_draws: int | None
    queue_bytes: int

    def __post_init__(self) -> None:
        for name in ("chunk_draws", "queue_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        if self.group is not None and not (self.group.isidentifier() and self.group[0] != "_"):
            raise ValueError(f"group must be a plain name such as 'posterior', got {self.group!r}")
