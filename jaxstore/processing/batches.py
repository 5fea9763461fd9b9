"""Items in batches of one size, the last filled up by repeating its last item.

Owned here: cutting, filling up, and the arrays that the parts are put together in. A program of one
size gives an item the same bits whatever the others are; programs of two sizes do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.processing.aligned import aligned_empty

Array = np.ndarray[Any, Any]


def n_items_of(items: PyTree[Array]) -> int:
    """How many items there are."""
    return len(jax.tree.leaves(items)[0])


def batches(items: PyTree[Array], batch_size: int) -> Iterator[tuple[PyTree[Array], range]]:
    """Each batch, whole, with the places of those of its items that count."""
    n_items = n_items_of(items)
    for start in range(0, n_items, batch_size):
        places = range(start, min(start + batch_size, n_items))
        yield jax.tree.map(lambda leaf, at=places: _cut(leaf, at, batch_size), items), places


def gathered(
    compute: Callable[[PyTree[Array]], PyTree[Any]], items: PyTree[Array], batch_size: int
) -> PyTree[Array]:
    """The outputs of all items, computed batch by batch.

    Those of one batch are what the device gave, and may be read-only.
    """
    n_items = n_items_of(items)
    if not n_items:
        raise ValueError("there must be items")
    whole: list[Array] = []
    structure = None
    for batch, places in batches(items, batch_size):
        leaves, structure = jax.tree.flatten(compute(batch))
        parts = [np.asarray(leaf)[: len(places)] for leaf in leaves]
        if len(places) == n_items:
            whole = parts
            break
        whole = whole or [aligned_empty((n_items, *p.shape[1:]), p.dtype) for p in parts]
        for into, part in zip(whole, parts, strict=True):
            into[places.start : places.stop] = part
    return jax.tree.unflatten(structure, whole)


def _cut(leaf: Array, places: range, batch_size: int) -> Array:
    part: Array = leaf[places.start : places.stop]
    if len(part) == batch_size:
        return np.asarray(part, part.dtype.newbyteorder("="))
    filled = aligned_empty((batch_size, *part.shape[1:]), part.dtype.newbyteorder("="))
    filled[: len(part)] = part
    filled[len(part) :] = part[-1]
    return filled
