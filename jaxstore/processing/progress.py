"""A bar over the items of a process.

Owned here: how it looks, in a terminal and in a notebook.
"""

from __future__ import annotations

import threading
from typing import Any


class Bar:
    """Items that are done, with items per second and the time that is left; silent in a pipe.

    Args:
        is_shown: False shows nothing at all.
        name: Of the process.
        total: Items.
        done: Items that were done before.
    """

    def __init__(self, *, is_shown: bool, name: str, total: int, done: int) -> None:
        self._bar: Any = None
        self._lock = threading.Lock()  # tqdm's own is for drawing, not for counting
        if is_shown:
            from tqdm.auto import tqdm

            # disable=None asks tqdm to be silent unless it writes to a terminal.
            self._bar = tqdm(
                total=total,
                initial=done,
                unit=" items",
                unit_scale=True,
                desc=name,
                disable=None,
            )

    def step(self, n_items: int) -> None:
        """So many items more."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(n_items)

    def close(self) -> None:
        """End the line."""
        if self._bar is not None:
            self._bar.close()
