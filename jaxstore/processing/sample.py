"""A function tried on a few items, before it is given all: `sample`.

Owned here: the outputs of some items, in memory. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.processing.cut import cut_afresh
from jaxstore.processing.options import Options
from jaxstore.processing.recipe import Order, make_recipe
from jaxstore.processing.request import understand
from jaxstore.processing.selection import select_items
from jaxstore.processing.work import Mapping as Map

Array = np.ndarray[Any, Any]


def sample(
    function: Callable[..., PyTree[Any]],
    source: PyTree[Any],
    items: Sequence[int],
    *,
    params: Mapping[str, Any] | None = None,
    **settings: Any,
) -> PyTree[Array]:
    """The outputs of a few items, (len(items), ...) each; only chunks that they lie in are read.

    The values are those that `process` gives for these items with the same settings, bit for bit:
    they are computed by its program, of its batch size, filled up by repeating the last item. A
    result that was begun with another memory or select keeps batches of another size, though.

    Args:
        function: As for `process`.
        source: Likewise.
        items: Which: a list of places in the result of `process`, which are items of the source
            unless there is a `select`; or a slice, or a mask.
        params: As for `process`.
        settings: Any other keywords of `process`; with `reduce` the outputs are those before it.

    Raises:
        IndexError: There is no such item.
        JaxstoreError: As `process` would, before anything is made.

    >>> import jax.numpy as jnp
    >>> sample(lambda x: {"top": jnp.max(x)}, np.eye(20, dtype="f4") * 2, [3, 17])
    {'top': array([2., 2.], dtype=float32)}
    """
    order, options = understand(function, source, params=params, **settings)
    return sample_of(order, options, items)


def sample_of(order: Order, options: Options, items: Any) -> PyTree[Array]:
    """The outputs of a few items of an order."""
    with closing(make_recipe(replace(order, reduce=None))) as recipe:
        whole = recipe.selection
        places = select_items(items, whole.n_items)
        wanted = whole.items(0, whole.n_items)[places.items(0, places.n_items)]
        work = cut_afresh(recipe, options).work
        if not isinstance(work, Map):
            raise MismatchError("sample takes functions of items; run an ensemble with a small n.")
        channels = recipe.channels
        blocks = range(1 if channels is None else channels.n_blocks)
        parts = [work.compute(block, work.input.take(wanted, block)) for block in blocks]
        axis = 0 if channels is None else 1 + channels.axis
        leaves = [np.concatenate(part, axis=axis) for part in zip(*parts, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(recipe.kernels[0].out), leaves)


def read_of(order: Order, item: int) -> PyTree[Any]:
    """One item as the program gets it, (1, ...), on the device."""
    with closing(make_recipe(replace(order, reduce=None, chan_per_worker=None))) as recipe:
        wanted = recipe.selection.items(item, item + 1)
        values = recipe.sources.read(wanted)
        read = order.hooks.read
        return jax.tree.map(jnp.asarray, values if read is None else read(values, wanted))
