"""What `verify` found, as a record.

Owned here: the record, and how it reads. The looking is `verify`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxstore.sizes import size
from jaxstore.stores.base import Json


class Damage(NamedTuple):
    """One thing that is not as it was written."""

    place: str  # name of an array, or "manifest", "commit record", "tail-0", ...
    what: str  # "chunk (0, 3) is damaged: the checksum does not match the bytes"

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a look at every committed chunk of a run, a storage or a result came to."""

    location: str
    n_arrays: int
    n_chunks: int  # that were read
    n_bytes: int  # that they hold, decoded
    seconds: float
    damage: tuple[Damage, ...]  # in the order of the arrays
    is_whole: bool  # everything was looked at; there was not too much damage for that

    @property
    def is_sound(self) -> bool:
        """Whether all that is committed is as it was written."""
        return not self.damage

    def to_json(self) -> Json:
        """This record as JSON."""
        return {
            "location": self.location,
            "is_sound": self.is_sound,
            "arrays": self.n_arrays,
            "chunks": self.n_chunks,
            "bytes": self.n_bytes,
            "seconds": round(self.seconds, 3),
            "damage": [damage._asdict() for damage in self.damage],
            "is_whole": self.is_whole,
        }

    def __str__(self) -> str:
        lines = [str(damage) for damage in self.damage]
        if not self.is_whole:
            lines.append(f"and more: after {len(self.damage):,} lines nothing else was read")
        sizes = f"{self.n_arrays} arrays, {self.n_chunks:,} chunks, {size(self.n_bytes)}"
        found = "all sound" if self.is_sound else f"{len(self.damage):,} damaged"
        return "\n".join([*lines, f"{self.location}: {found}; {sizes} in {self.seconds:.1f} s"])


def joined(location: str, reports: Sequence[Report]) -> Report:
    """What several looks came to, as one; places are told with where they were."""
    return Report(
        location=location,
        n_arrays=sum(report.n_arrays for report in reports),
        n_chunks=sum(report.n_chunks for report in reports),
        n_bytes=sum(report.n_bytes for report in reports),
        seconds=sum(report.seconds for report in reports),
        damage=tuple(
            Damage(f"{report.location}: {damage.place}", damage.what)
            for report in reports
            for damage in report.damage
        ),
        is_whole=all(report.is_whole for report in reports),
    )
