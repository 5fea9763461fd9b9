"""A kernel and a reduction compiled together: items go in, one state comes out.

Owned here: the program of a reduction. Its outputs are never kept, so a batch is all that it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxstore.processing.batches import batches
from jaxstore.processing.kernel import Kernel
from jaxstore.processing.program import compile_for
from jaxstore.processing.reduce import Folded, Reduction, start, state_of, updated


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """A compiled reduction of a kernel's outputs; several threads may call it at a time."""

    batch_size: int
    n_bytes: int  # while it runs, as of a Program
    start: Folded  # before any item
    run: Callable[..., Any]  # of a state, a whole batch, and how much of it counts

    def __call__(self, state: Folded, items: PyTree[np.ndarray[Any, Any]]) -> Folded:
        """The state after any number of items more, which come in order.

        As with a `Program` the caller changes nothing of the items until this returns. The state is
        one of NumPy arrays, and may be read-only.
        """
        for batch, places in batches(items, self.batch_size):
            # Arrays of NumPy: making one waits for the program, which may read the items in place.
            state = jax.tree.map(np.asarray, self.run(state, batch, np.int32(len(places))))
        return state


def compile_fold(kernel: Kernel, reduction: Reduction, batch_size: int) -> Fold:
    """Compile a kernel with a reduction for batches of one size.

    Args:
        kernel: What is computed of an item.
        reduction: What is made of its outputs.
        batch_size: Items at once.

    Raises:
        MismatchError: The parts of the reduction do not fit the outputs.
    """

    def advance(state: Folded, items: PyTree, n_items: jax.Array) -> Folded:
        counts = jnp.arange(batch_size, dtype=jnp.int32) < n_items
        return updated(reduction, state, kernel.over(items), counts)

    compiled, n_bytes = compile_for(
        advance,
        state_of(reduction, kernel.out),
        kernel.batch(batch_size),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    first = jax.tree.map(np.asarray, start(reduction, kernel.out))
    return Fold(batch_size, n_bytes, first, compiled)
