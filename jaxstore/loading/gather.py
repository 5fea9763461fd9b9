"""Rows out of blocks into a batch on the host.

Owned here: how a view shows rows of a column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxstore.loading.blocks import Blocks, Request
from jaxstore.loading.buffers import Buffers
from jaxstore.loading.column import View
from jaxstore.loading.recipe import Recipe
from jaxstore.loading.shuffle import Rows


def shown_rows(view: View, rows: Rows) -> Rows:
    """The rows of the column that a view shows for rows of the split, (rows,) or (rows, stack)."""
    offsets = np.asarray(view.offsets)
    return rows[:, None] + offsets if view.is_stacked else rows + offsets[0]


class HostGather:
    """Batches in host memory that is used again."""

    def __init__(self, recipe: Recipe, blocks: Blocks) -> None:
        self._views = recipe.views
        self._blocks = blocks
        self._buffers = Buffers(recipe.specs())

    def arrived(self, request: Request) -> None:
        """Nothing to do: what was read is where it is gathered from."""

    def begin(self) -> dict[str, Any]:
        """Memory of a batch that nobody refers to any more."""
        return dict(self._buffers.take())

    def put(self, arrays: dict[str, Any], start: int, rows: Rows) -> None:
        """Copy rows to their positions."""
        for label, view in self._views.items():
            shown = shown_rows(view, rows)
            out = arrays[label][start : start + len(rows)]
            flat = out.reshape(shown.size, *out.shape[shown.ndim :])
            self._blocks.gather(view.column, shown.reshape(-1), flat)

    def leave(self, arrays: dict[str, Any]) -> None:
        """Nothing to do: what was put is there."""

    def finish(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The arrays as they are."""
        return arrays
