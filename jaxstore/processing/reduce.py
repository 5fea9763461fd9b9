"""One result of many items: states that are folded, combined in a fixed order, and finished.

Owned here: what a reduction is, a user's own among them, and the order in which states meet. Those
that have a name are `reductions`', running one over items is `fold`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, PyTree

from jaxstore.errors import MismatchError
from jaxstore.fingerprint import of_function
from jaxstore.processing.kernel import Structs, batch_of, label_of, name_of, strong


class Reduce(NamedTuple):
    """A reduction of one's own. Unpacks as `init, update, combine, finalize`.

    Each is traced by JAX, for one item at a time. Items of a unit come in order, and units are
    combined in order, so `combine` need not commute; it is only given states that saw an item.

    >>> largest = Reduce(
    ...     init=lambda value: jnp.full(value.shape, -jnp.inf),
    ...     update=lambda state, value: jnp.maximum(state, value),
    ...     combine=jnp.maximum,
    ...     finalize=lambda state: state,
    ... )
    """

    init: Callable[[Structs], PyTree]  # state before any item, of the shapes and dtypes of one
    update: Callable[[PyTree, PyTree], PyTree]  # state and the kernel's output for one item
    combine: Callable[[PyTree, PyTree], PyTree]  # state of earlier items, state of later ones
    finalize: Callable[[PyTree], PyTree]  # the result


class Folded(NamedTuple):
    """What a reduction knows of some items."""

    n_items: Int32[Array, ""]
    values: PyTree


class Reduction(NamedTuple):
    """A reduction of batches; all functions are to be traced.

    Sees a whole batch and which of it counts: what fills a batch up is no item.
    """

    name: str
    init: Callable[[Structs], PyTree]
    update: Callable[[Folded, PyTree, Bool[Array, " batch"]], PyTree]  # values of a batch
    combine: Callable[[Folded, Folded], PyTree]
    finalize: Callable[[Folded, Structs], PyTree]


def of_items(reduce: Reduce) -> Reduction:
    """A reduction of items one at a time, as one of batches."""

    def update(state: Folded, values: PyTree, counts: Bool[Array, " batch"]) -> PyTree:
        def step(held: PyTree, row: tuple[PyTree, Array]) -> tuple[PyTree, None]:
            value, is_item = row
            updated = _like(held, reduce.update(held, value), "update")
            return jax.tree.map(lambda new, old: jnp.where(is_item, new, old), updated, held), None

        return jax.lax.scan(step, state.values, (values, counts))[0]

    return Reduction(
        name=f"Reduce({', '.join(name_of(function) for function in reduce)})",
        init=lambda out: jax.tree.map(jnp.asarray, reduce.init(out)),
        update=update,
        combine=lambda a, b: _like(a.values, reduce.combine(a.values, b.values), "combine"),
        finalize=lambda state, _: reduce.finalize(state.values),
    )


def start(reduction: Reduction, out: Structs) -> Folded:
    """The state before any item."""
    values = jax.tree.map(strong, reduction.init(out))
    return Folded(jnp.zeros((), jnp.int32), values)


def updated(
    reduction: Reduction, state: Folded, values: PyTree, counts: Bool[Array, " batch"]
) -> Folded:
    """The state after a batch; to be traced."""
    n_items = state.n_items + jnp.sum(counts, dtype=jnp.int32)
    return Folded(n_items, reduction.update(state, values, counts))


def state_of(reduction: Reduction, out: Structs) -> Folded:
    """Shapes and dtypes of a state."""
    # A function of its own: JAX remembers traces by function.
    return jax.eval_shape(lambda: start(reduction, out))


def result_of(reduction: Reduction, out: Structs) -> Structs:
    """Shapes and dtypes of the result.

    Raises:
        MismatchError: The parts of a user's reduction do not fit together.
    """
    state = state_of(reduction, out)
    jax.eval_shape(lambda a, b: reduction.combine(a, b), state, state)
    result = jax.eval_shape(lambda a: reduction.finalize(a, out), state)
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), result)


def fingerprint_of(reduction: Reduction, out: Structs) -> str:
    """What tells a reduction apart: its name, and what its functions compute."""
    state = state_of(reduction, out)

    def whole(a: Folded, b: Folded, values: PyTree, counts: Array) -> PyTree:
        first, after = start(reduction, out), updated(reduction, a, values, counts)
        return first, after, reduction.combine(a, b), reduction.finalize(b, out)

    counts = jax.ShapeDtypeStruct((1,), jnp.bool_)
    return f"{reduction.name} {of_function(whole, state, state, batch_of(out, 1), counts)}"


def combine_all(reduction: Reduction, out: Structs, partials: Iterable[Folded]) -> PyTree:
    """The result of the states of all units, which are taken in the order in which they come.

    One compiled program combines each two, so the bits do not depend on who computed which. States
    that saw no item are left out.

    Raises:
        MismatchError: There is no item at all.
    """
    combine = jax.jit(lambda a, b: Folded(a.n_items + b.n_items, reduction.combine(a, b)))
    whole: Folded | None = None
    for partial in partials:
        if int(partial.n_items):
            whole = partial if whole is None else combine(whole, partial)
    if whole is None:
        raise MismatchError(f"{reduction.name!r} of no items. Select some, or retry failed ones.")
    finalize = jax.jit(lambda state: jax.tree.map(jnp.asarray, reduction.finalize(state, out)))
    return jax.tree.map(np.asarray, finalize(whole))


def _like(state: PyTree, found: PyTree, verb: str) -> PyTree:
    """What a user's function gave, if it is a state as `init` made it."""
    there, here = str(jax.tree.structure(state)), str(jax.tree.structure(found))
    if there != here:
        raise MismatchError(f"{verb} gives {here}, init gives {there}. Return a state of one kind.")

    def alike(path: Any, held: Array, value: Any) -> Array:
        value = jnp.asarray(value)
        if (value.shape, value.dtype) != (held.shape, held.dtype):
            raise MismatchError(
                f"{verb} gives {label_of(path, 'state')} as {value.dtype}{list(value.shape)}, init "
                f"as {held.dtype}{list(held.shape)}. Make them alike, in shape and dtype."
            )
        return strong(value)

    return jax.tree_util.tree_map_with_path(alike, state, found)
