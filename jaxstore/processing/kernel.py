"""A user's function as what is compiled: shapes and dtypes in and out, without a call on data.

Owned here: what a function must take and give, and the words if it does not. Compiling it is
`program`'s, telling two of them apart `same`'s.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxstore.errors import FormatError, MismatchError
from jaxstore.fingerprint import Traced, trace

type Structs = PyTree[jax.ShapeDtypeStruct]

_log = logging.getLogger("jaxstore")


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A function with its parameters, and the shapes that it takes and gives."""

    function: Callable[..., Any]
    params: Mapping[str, Any]
    item: Structs  # one item in
    out: Structs  # one item out
    is_batched: bool  # the function takes and gives a leading axis of items
    # Of one item, or of a few; what JAX remembers of the function may be older than its helpers.
    traced: Traced

    @property
    def item_bytes(self) -> int:
        """Of one item in."""
        return n_bytes_of(self.item)

    @property
    def out_bytes(self) -> int:
        """Of one item out."""
        return n_bytes_of(self.out)

    def batch(self, n_items: int) -> Structs:
        """So many items in."""
        return batch_of(self.item, n_items)

    def over(self, items: PyTree[Array]) -> PyTree[Array]:
        """The outputs of a batch; to be traced."""
        if self.is_batched:
            return _traced(partial(self.function, **self.params), items)[0].call(items)
        return jax.vmap(self.traced.call)(items)


def kernel_of(
    function: Callable[..., Any],
    item: PyTree,
    params: Mapping[str, Any],
    *,
    is_batched: bool = False,
) -> Kernel:
    """A kernel, by what JAX says of the function; it is traced, never run.

    Numbers that the function gives become arrays. Inside it the rules of JAX hold: a NumPy array
    of 64 bits that it makes is one of 32 there unless x64 is on.

    Args:
        function: Takes an item, a pytree like `item`, and the parameters as keywords.
        item: Shapes and dtypes of one item.
        params: What they are is part of the program.
        is_batched: The function takes many items at once, each leaf with a leading axis, and gives
            its outputs so.

    Raises:
        MismatchError: It does not take the parameters; or JAX cannot hold the items as they are.
        FormatError: It gives what is no array.
        Exception: Whatever it raises, with a note.

    >>> kernel = kernel_of(lambda x, *, by: {"total": x.sum() * by}, np.zeros(3, "f4"), {"by": 2})
    >>> kernel.out
    {'total': ShapeDtypeStruct(shape=(), dtype=float32)}
    """
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, _native(leaf.dtype)), item)
    _check_item(item)
    _check_call(function, params)
    call = partial(function, **params)
    traced, out = (_traced_batches if is_batched else _traced)(call, item)
    if traced.has_callback:
        _log.warning(
            "%s calls Python on the host; what that does is not compared with earlier results. "
            "Give version=, and change it with the code.",
            name_of(function),
        )
    return Kernel(function, dict(params), item, out, is_batched, traced)


def batch_of(item: Structs, n_items: int) -> Structs:
    """Shapes with a leading axis."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((n_items, *s.shape), s.dtype), item)


def n_bytes_of(tree: PyTree) -> int:
    """Of all leaves together."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in messages."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def label_of(path: Sequence[Any], whole: str) -> str:
    """A leaf in words; a tree that is one leaf is called `whole`."""
    return f"{whole}{jax.tree_util.keystr(tuple(path))}"


def strong(value: Any) -> Array:
    """An array without a weak type, which would be another after a step of a loop."""
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return array
    return jax.lax.convert_element_type(array, array.dtype)


def _native(dtype: Any) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("=")


def _check_item(item: Structs) -> None:
    """Refuse what JAX would change, and what it cannot hold."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(item):
        label, dtype = label_of(path, "item"), leaf.dtype
        try:
            kept = jax.eval_shape(lambda dt=dtype: jnp.asarray(np.zeros((), dt))).dtype
        except TypeError as error:
            fields = list(dtype.names or ())
            hint = f"Give a field of {fields} as its own array." if fields else "Store numbers."
            raise MismatchError(
                f"{label} is {dtype}, of which JAX has no arrays. {hint}"
            ) from error
        if kept != dtype:
            raise MismatchError(
                f"{label} is {dtype}, and JAX would make {kept} of it without a word. Set "
                f"jax.config.update('jax_enable_x64', True), or cast it yourself to {kept}."
            )


def _check_call(function: Callable[..., Any], params: Mapping[str, Any]) -> None:
    """Refuse parameters that a function does not take, where it tells what it takes."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # one of C tells nothing; tracing shows
    try:
        signature.bind(None, **params)
    except TypeError as error:
        raise MismatchError(
            f"{name_of(function)}{signature} is called with one item and the parameters "
            f"{sorted(params)}: {error}. It takes {list(signature.parameters)}; several arrays "
            "come as one item, and all else by keyword in params."
        ) from error


def _traced(call: Callable[..., Any], item: Structs) -> tuple[Traced, Structs]:
    """A call as it is now, and what it gives, without weak types."""

    def checked(value: PyTree) -> PyTree:
        return _as_arrays(call(value), name_of(call))

    try:
        traced = trace(checked, item)
    except Exception as error:
        shapes = jax.tree.map(lambda s: f"{s.dtype}{list(s.shape)}", item)
        error.add_note(f"while {name_of(call)} was traced for {shapes}")
        raise
    out = jax.eval_shape(traced.call, item)
    return traced, jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), out)


def _traced_batches(call: Callable[..., Any], item: Structs) -> tuple[Traced, Structs]:
    """A call for a few items, and what it gives for one, by what it gives for two sizes."""
    sizes = (2, 3)
    traced, outs = zip(*(_traced(call, batch_of(item, n)) for n in sizes), strict=True)
    found = [[leaf.shape[:1] for leaf in jax.tree.leaves(out)] for out in outs]
    ones = [jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), out) for out in outs]
    is_led = all(shape == (n,) for n, shapes in zip(sizes, found, strict=True) for shape in shapes)
    if not is_led or ones[0] != ones[1]:
        raise FormatError(
            f"{name_of(call)} takes batches, so each of its outputs must have the items on axis 0 "
            f"and be alike otherwise. For 2 items it gives {outs[0]}, for 3 items {outs[1]}. "
            "Give outputs so, or a function of one item without batched=True."
        )
    return traced[0], ones[0]


def _as_arrays(outputs: PyTree, name: str) -> PyTree[Array]:
    if not jax.tree.leaves(outputs):
        raise FormatError(f"{name} gives {outputs!r}, no array at all. Return what is to be kept.")

    def as_array(path: Sequence[Any], leaf: Any) -> Array:
        label = label_of(path, "output")
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise FormatError(
                f"{label} of {name} is a typed key, {leaf.dtype}. Return jax.random.key_data(key)."
            )
        try:
            return jnp.asarray(leaf)
        except TypeError as error:
            raise FormatError(
                f"{label} of {name} is {_told(leaf)}. Return arrays and numbers, in a pytree."
            ) from error

    return jax.tree_util.tree_map_with_path(as_array, outputs)


def _told(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray | np.generic):
        return f"an array of {leaf.dtype}, which JAX does not know"
    return f"{leaf!r} of type {type(leaf).__name__}, which is no array"
