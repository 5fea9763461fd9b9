"""Rows gathered on a device, from chunks that were sent there once.

Owned here: the copy of the blocks on the device. A batch is then one gather at the speed of the
device's memory, and each chunk crosses to it once per epoch however its rows are spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstore.loading.blocks import Blocks, Request
from jaxstore.loading.gather import shown_rows
from jaxstore.loading.recipe import Recipe
from jaxstore.loading.shuffle import Rows
from jaxstore.sources.geometry import Array


class DeviceGather:
    """Batches on one device.

    Args:
        recipe: What they are made of.
        blocks: Whose chunks are sent on.
        device: Where to; None is the default one.
    """

    def __init__(self, recipe: Recipe, blocks: Blocks, device: jax.Device | None) -> None:
        self._recipe = recipe
        self._blocks = blocks
        self._device = device
        self._copies = [
            jax.device_put(jnp.zeros(blocks.shape(i), column.row.dtype), device)
            for i, column in enumerate(recipe.columns)
        ]

    def arrived(self, request: Request) -> None:
        """Send the chunks that are new."""
        for number, slots in enumerate(request.fresh):
            chunk_rows = self._recipe.columns[number].chunk_rows
            for slot in slots.tolist():
                chunk = jax.device_put(self._blocks.chunk_in(number, slot), self._device)
                first = (
                    np.int64(slot * chunk_rows)
                    if jax.config.jax_enable_x64
                    else np.int32(slot * chunk_rows)
                )
                self._copies[number] = _replace(self._copies[number], chunk, first)
        # The memory of a chunk may be read into again once it has arrived.
        jax.block_until_ready(self._copies)

    def begin(self) -> dict[str, Any]:
        """Where each row of a batch lies, to be filled."""
        n = len(self._recipe.positions)
        return {
            label: _Rows(np.zeros((n, len(view.offsets)), np.int32), np.zeros(n, bool))
            for label, view in self._recipe.views.items()
        }

    def put(self, arrays: dict[str, Any], start: int, rows: Rows) -> None:
        """Note where rows lie."""
        part = slice(start, start + len(rows))
        for label, view in self._recipe.views.items():
            shown = shown_rows(view, rows).reshape(len(rows), -1)
            arrays[label].places[part] = self._blocks.places(view.column, shown)
            arrays[label].is_here[part] = True

    def leave(self, arrays: dict[str, Any]) -> None:
        """Take the rows of a window that goes; those of later windows are added to them."""
        for label in arrays:
            taken = self._taken(label, arrays[label])
            arrays[label].is_here[:] = False
            arrays[label].taken = taken

    def finish(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Gather all rows at once."""
        return {label: self._taken(label, rows) for label, rows in arrays.items()}

    def _taken(self, label: str, rows: _Rows) -> jax.Array:
        view = self._recipe.views[label]
        places = rows.places if view.is_stacked else rows.places[:, 0]
        # Copies, since JAX may keep what it is given, and this is written again.
        sent = jax.device_put((places.copy(), rows.is_here.copy()), self._device)
        copy = self._copies[view.column]
        return _take(copy, sent[0]) if rows.taken is None else _add(copy, *sent, rows.taken)


@dataclass(slots=True)
class _Rows:
    """Rows of a batch, in the making."""

    places: Array  # among the rows of all slots
    is_here: Array  # in the present window
    taken: jax.Array | None = None  # rows of windows before


@partial(jax.jit, donate_argnums=0)
def _replace(copy: jax.Array, chunk: jax.Array, first: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(copy, chunk, first, axis=0)


@jax.jit
def _take(copy: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take(copy, places, axis=0, mode="clip")


@jax.jit
def _add(copy: jax.Array, places: jax.Array, is_here: jax.Array, taken: jax.Array) -> jax.Array:
    found = _take(copy, places)
    return jnp.where(is_here.reshape(-1, *[1] * (taken.ndim - 1)), found, taken)
