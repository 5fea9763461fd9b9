"""How far a conversion is, and what it could not carry.

Owned here: the counts, and the line that a terminal shows meanwhile.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from jaxstore.face.screen import Screen, bar
from jaxstore.sizes import size


@dataclass(slots=True)
class Tally:
    """What was copied so far."""

    is_shown: bool  # in a terminal
    total_bytes: int = 0
    n_bytes: int = 0  # decoded
    n_arrays: int = 0
    notes: list[str] = field(default_factory=list)  # what is not in the target as in the source
    _screen: Screen = field(default_factory=lambda: Screen(sys.stderr))

    def add(self, n_bytes: int) -> None:
        """Count what was written."""
        self.n_bytes += n_bytes
        if self.is_shown and self._screen.is_due:
            share = self.n_bytes / max(1, self.total_bytes)
            done = f"{size(self.n_bytes)} of {size(self.total_bytes)}"
            self._screen.draw([f"converting {bar(share)} {done}"])

    def clear(self) -> None:
        """Take the line away."""
        self._screen.clear()
