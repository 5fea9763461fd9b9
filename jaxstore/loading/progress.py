"""A bar over the batches of an epoch.

Owned here: how it looks, in a terminal and in a notebook.
"""

from __future__ import annotations

from typing import Any

from jaxstore.loading.statistics import Clock


class Bar:
    """Batches of one epoch; silent in a pipe, and where nobody asked for it."""

    def __init__(self, *, is_shown: bool, epoch: int, done: int, total: int) -> None:
        self._bar: Any = None
        if is_shown:
            from tqdm.auto import tqdm

            # disable=None asks tqdm to be silent unless it writes to a terminal.
            self._bar = tqdm(
                total=total, initial=done, unit=" batches", desc=f"epoch {epoch}", disable=None
            )

    def step(self, clock: Clock) -> None:
        """One batch more."""
        if self._bar is not None:
            share = clock.waited_s / max(clock.seconds, 1e-9)
            self._bar.set_postfix_str(f"{share:.0%} of the time waiting", refresh=False)
            self._bar.update()

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()
