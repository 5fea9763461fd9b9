"""The reductions that have a name: mean, sum, min, max and variance, of each output by itself.

Owned here: their arithmetic. Sums are kept in at least 32 bits.

    sum       as jnp.sum: whole numbers of fewer than 32 bits, and bools, as 32 (64 with x64);
              it wraps around where the dtype ends, as there. Floats and complex keep their dtype.
    mean      of whole numbers and bools a float; of others their dtype
    variance  the same, ddof 0; of complex numbers real
    min, max  the dtype of the output; NaN where one is NaN; complex numbers have none
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from jaxstore.errors import MismatchError
from jaxstore.processing.kernel import Structs, label_of
from jaxstore.processing.reduce import Folded, Reduce, Reduction, of_items

Counts = Bool[Array, " batch"]


class Moments(NamedTuple):
    """Of one output."""

    mean: Array
    squares: Array  # sum of the squared distances from the mean; real


def reduction(wanted: str | Reduce) -> Reduction:
    """A reduction by name, or of one's own.

    Raises:
        ValueError: There is none of that name.

    >>> reduction("mean").name
    'mean'
    """
    if isinstance(wanted, Reduce):
        return of_items(wanted)
    found = {r.name: r for r in (_SUM, _MEAN, _MIN, _MAX, _VARIANCE)}.get(wanted)
    if found is None:
        raise ValueError(
            f"reduce is {wanted!r}. Give 'mean', 'sum', 'min', 'max' or 'variance', or a "
            "js.Reduce(init, update, combine, finalize)."
        )
    return found


def _sum_dtype(dtype: Any) -> Any:
    """What sums are kept in: as jnp.sum, half floats in 32 bits."""
    summed = jax.eval_shape(lambda: jnp.sum(jnp.zeros(1, dtype))).dtype
    is_half = jnp.issubdtype(summed, jnp.floating) and summed.itemsize < 4
    return jnp.float32 if is_half else summed


def _mean_dtype(dtype: Any) -> Any:
    """What means are given in."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return dtype
    return jax.dtypes.canonicalize_dtype(jnp.float64)


def _held_dtype(dtype: Any) -> Any:
    """What means are kept in."""
    return _sum_dtype(_mean_dtype(dtype))


def _over(counts: Counts, values: Array) -> Counts:
    """Which of a batch counts, with axes as the values have them."""
    return counts.reshape(-1, *(1,) * (values.ndim - 1))


def _sum_of(values: Array, counts: Counts, dtype: Any) -> Array:
    return jnp.sum(jnp.where(_over(counts, values), values.astype(dtype), 0), axis=0, dtype=dtype)


def _add(state: PyTree, values: PyTree, counts: Counts) -> PyTree:
    return jax.tree.map(lambda s, v: s + _sum_of(v, counts, s.dtype), state, values)


_SUM = Reduction(
    "sum",
    lambda out: jax.tree.map(lambda s: jnp.zeros(s.shape, _sum_dtype(s.dtype)), out),
    lambda state, values, counts: _add(state.values, values, counts),
    lambda a, b: jax.tree.map(jnp.add, a.values, b.values),
    lambda state, out: jax.tree.map(
        lambda value, s: value.astype(s.dtype) if jnp.issubdtype(s.dtype, jnp.inexact) else value,
        state.values,
        out,
    ),
)


def _mean_of(state: Folded, out: Structs) -> PyTree:
    return jax.tree.map(
        lambda total, s: (total / state.n_items.astype(total.real.dtype)).astype(
            _mean_dtype(s.dtype)
        ),
        state.values,
        out,
    )


_MEAN = Reduction(
    "mean",
    lambda out: jax.tree.map(lambda s: jnp.zeros(s.shape, _held_dtype(s.dtype)), out),
    lambda state, values, counts: _add(state.values, values, counts),
    lambda a, b: jax.tree.map(jnp.add, a.values, b.values),
    _mean_of,
)


def _extreme(name: str) -> Reduction:
    is_min = name == "min"
    pick, along = (jnp.minimum, jnp.min) if is_min else (jnp.maximum, jnp.max)

    def farthest(dtype: Any) -> Any:
        """A value that any other replaces."""
        if dtype == jnp.bool_:
            return is_min
        limits: Any = jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo
        bounds = limits(dtype)
        has_infinity = limits is jnp.finfo and np.isinf(np.asarray(np.inf, dtype))
        if has_infinity:
            return np.inf if is_min else -np.inf
        return bounds.max if is_min else bounds.min

    def init(out: Structs) -> PyTree:
        for path, leaf in jax.tree_util.tree_leaves_with_path(out):
            if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                raise MismatchError(
                    f"{label_of(path, 'output')} is {leaf.dtype}, which has no order for {name!r}. "
                    "Return jnp.abs of it, or its parts."
                )
        return jax.tree.map(lambda s: jnp.full(s.shape, farthest(s.dtype), s.dtype), out)

    def update(state: Folded, values: PyTree, counts: Counts) -> PyTree:
        def one(held: Array, value: Array) -> Array:
            other = jnp.asarray(farthest(value.dtype), value.dtype)
            return pick(held, along(jnp.where(_over(counts, value), value, other), axis=0))

        return jax.tree.map(one, state.values, values)

    return Reduction(
        name,
        init,
        update,
        lambda a, b: jax.tree.map(pick, a.values, b.values),
        lambda state, _: state.values,
    )


_MIN, _MAX = _extreme("min"), _extreme("max")


def _moments(out: Structs) -> PyTree:
    def zeros(s: jax.ShapeDtypeStruct) -> Moments:
        mean = jnp.zeros(s.shape, _held_dtype(s.dtype))
        return Moments(mean, jnp.zeros_like(mean.real))

    return jax.tree.map(zeros, out)


def _joined(a: Moments, b: Moments, n_a: Array, n_b: Array) -> Moments:
    """Moments of two samples together.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 37(3), 1983, https://doi.org/10.1080/00031305.1983.10483115, equation 2.1; after
    Welford, Technometrics 4(3), 1962. Sums of squares lose all digits where the mean is large.
    """
    dtype = b.squares.dtype
    share = n_b.astype(dtype) / jnp.maximum(n_a + n_b, 1).astype(dtype)
    apart = b.mean - a.mean
    return Moments(
        a.mean + apart * share,
        a.squares + b.squares + _squared(apart) * share * n_a.astype(dtype),
    )


def _squared(value: Array) -> Array:
    return jnp.real(value * jnp.conj(value))


def _widen(state: Folded, values: PyTree, counts: Counts) -> PyTree:
    n_batch = jnp.sum(counts, dtype=jnp.int32)

    def one(held: Moments, batch: Array) -> Moments:
        dtype = held.mean.dtype
        total = _sum_of(batch, counts, dtype)
        mean = total / jnp.maximum(n_batch, 1).astype(held.squares.dtype)
        apart = jnp.where(_over(counts, batch), batch.astype(dtype) - mean, 0)
        return _joined(
            held, Moments(mean, jnp.sum(_squared(apart), axis=0)), state.n_items, n_batch
        )

    return jax.tree.map(one, state.values, values, is_leaf=lambda node: isinstance(node, Moments))


def _variance_of(state: Folded, out: Structs) -> PyTree:
    def one(held: Moments, s: jax.ShapeDtypeStruct) -> Array:
        dtype = jnp.zeros((), _mean_dtype(s.dtype)).real.dtype
        return (held.squares / state.n_items.astype(held.squares.dtype)).astype(dtype)

    return jax.tree.map(one, state.values, out, is_leaf=lambda node: isinstance(node, Moments))


_VARIANCE = Reduction(
    "variance",
    _moments,
    _widen,
    lambda a, b: jax.tree.map(
        lambda x, y: _joined(x, y, a.n_items, b.n_items),
        a.values,
        b.values,
        is_leaf=lambda node: isinstance(node, Moments),
    ),
    _variance_of,
)
