"""Progress of saving: one line with draws, draws per second, what is committed, bytes and queue.

Owned here: how it looks, in a terminal and in a notebook. The numbers are its caller's.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

EVERY_S = 0.1


class Status(NamedTuple):
    """How far saving is."""

    n_chains: int
    draws: int  # taken from the program, all chains together
    committed: int  # of these, what a reader of the store sees
    n_bytes: int  # written, before compression
    queued_bytes: int


class Meter:
    """A bar over the draws of all chains; silent where nobody looks.

    Args:
        is_shown: False shows nothing at all. True shows a bar in a terminal or a notebook, and
            nothing in a pipe.
        total: Draws of all chains together, None if unknown.
    """

    def __init__(self, *, is_shown: bool, total: int | None = None) -> None:
        self._bar: Any = None
        self._shown_at = 0.0
        if is_shown:
            from tqdm.auto import tqdm

            # disable=None asks tqdm to be silent unless it writes to a terminal.
            self._bar = tqdm(total=total, unit=" draws", unit_scale=True, disable=None)
            if self._bar.disable:
                self._bar = None

    def show(self, status: Status) -> None:
        """Show these numbers, at most ten times a second."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown_at >= EVERY_S:
            self._shown_at = now
            self._draw(status)

    def close(self, status: Status) -> None:
        """Show the final numbers and end the line."""
        if self._bar is not None:
            self._draw(status)
            self._bar.close()
            self._bar = None

    def _draw(self, status: Status) -> None:
        size = self._bar.format_sizeof
        chains = f"{status.n_chains} chain" + "s" * (status.n_chains != 1)
        self._bar.set_description(chains, refresh=False)
        self._bar.set_postfix_str(
            f"committed {status.committed:,}, {size(status.n_bytes, 'B', 1024)}, "
            f"queue {size(status.queued_bytes, 'B', 1024)}",
            refresh=False,
        )
        self._bar.n = status.draws
        self._bar.refresh()
