"""Lines on a terminal that change in place, and plain lines everywhere else.

Owned here: escape sequences. What the lines say is told by others.
"""

from __future__ import annotations

import shutil
import time
from typing import TextIO

BAR_CELLS = 24
SHOW_EVERY_S = 0.1  # for what changes more often than eyes can follow
UP_AND_CLEAR = "\x1b[{n}A\r\x1b[J"  # ECMA-48: n lines up, then clear to the end of the screen


class Screen:
    """The last lines of a terminal, drawn again and again.

    Args:
        stream: To write to; one that is no terminal gets nothing from `draw`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._n_lines = 0
        self._drawn_at = float("-inf")
        self.is_live = stream.isatty()

    @property
    def is_due(self) -> bool:
        """Whether it is a terminal that was not drawn just now."""
        return self.is_live and time.monotonic() - self._drawn_at >= SHOW_EVERY_S

    def draw(self, lines: list[str]) -> None:
        """Put these lines in place of those before."""
        if not self.is_live:
            return
        width = shutil.get_terminal_size().columns
        # A line that wraps would count as two when it is cleared.
        text = "".join(f"{line[: width - 1]}\n" for line in lines)
        self._stream.write(self._back() + text)
        self._stream.flush()
        self._n_lines, self._drawn_at = len(lines), time.monotonic()

    def clear(self) -> None:
        """Take the lines away."""
        if not self._n_lines:
            return
        self._stream.write(self._back())
        self._stream.flush()
        self._n_lines = 0

    def say(self, line: str) -> None:
        """Write a line that stays, above those that change."""
        self.clear()
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _back(self) -> str:
        return UP_AND_CLEAR.format(n=self._n_lines) if self._n_lines else ""


def bar(share: float) -> str:
    """A bar that is full by this share.

    >>> bar(0.5)
    '████████████············'
    """
    full = round(max(0.0, min(1.0, share)) * BAR_CELLS)
    return "█" * full + "·" * (BAR_CELLS - full)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.4), duration(75), duration(7300), duration(200_000)
    ('0 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    s = int(seconds)
    for big, small, unit, rest in ((86400, 3600, "d", "h"), (3600, 60, "h", "min")):
        if s >= big:
            return f"{s // big} {unit} {s % big // small} {rest}"
    return f"{s // 60} min {s % 60} s" if s >= 60 else f"{s} s"
