"""The ring of draws on the device: the state that `save` carries through somebody's loop.

Owned here: what lies in a `SavingState` and how one draw goes in. How a full ring gets to the host
is `channel`'s, which rows of it are new is `lanes`'.

The ring turns on one clock for all chains. It ticks at every step at which any chain keeps its
draw; the draw of tick t lies in slot t % K of every chain, with its step number beside it and a bit
that says whether that chain kept it. Nothing is ever reset, no index has a chain axis, and both
counters lie in one array that is added to once: the CPU backend runs a loop body of few kernels in
its own thread, and hands one of more to a pool for 2 µs a step, more than all the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from jaxstore.errors import MismatchError
from jaxstore.saving import channel

# Bytes of ring per chain. Inside a busy loop one call costs 0.5 ms, since its code is no more in
# the caches, and 0.3 ms per MiB that JAX copies: at 1 MiB and 400-byte draws 0.3 µs a draw. With
# 4 MiB that is a third less, but a thousand chains would hold gigabytes.
RING_BYTES = 2**20
MAX_SLOTS = 4096


class SavingState(NamedTuple):
    """State of saving, for the carry of a loop."""

    receiver: Array  # shape=(), uint32; who takes the draws on the host
    chain: Array  # shape=(), int32; -1 if numbered by lane
    clock: Array  # shape=(2,), uint32, never mapped; tick, and step: calls of save so far
    stop: Array  # shape=(), uint32, never mapped; the tick of the next flush
    steps: Array  # shape=(slots,), uint32; 2 * step, plus one where the draw was kept
    ring: PyTree  # (slots, *leaf.shape) each; typed keys as their key data


def is_key(leaf: Any) -> bool:
    """Whether this is a typed PRNG key, as an array or as a shape."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def raw(leaf: Any) -> Any:
    """An array as JAX would hold it; a typed key as its data, with the words on the last axis."""
    return jax.random.key_data(leaf) if is_key(leaf) else jnp.asarray(leaf)


def raw_shapes(sample: PyTree) -> PyTree:
    """A `ShapeDtypeStruct` per leaf, of `raw` leaves."""
    return jax.eval_shape(lambda tree: jax.tree.map(raw, tree), sample)


def floor_power(n: int) -> int:
    """The largest power of two that is not above n; 1 for less than 1.

    >>> floor_power(1000), floor_power(0)
    (512, 1)
    """
    return 1 << max(0, n.bit_length() - 1)


def fitting_slots(shapes: PyTree, *, ring_bytes: int, max_slots: int) -> int:
    """Slots of a ring for draws of these shapes, a power of two."""
    draw_bytes = sum(s.dtype.itemsize * s.size for s in jax.tree.leaves(shapes))
    return floor_power(min(max_slots, ring_bytes // max(1, draw_bytes)))


def ring_slots(shapes: PyTree, *, buffer_draws: int | None) -> int:
    """Slots of a ring: a power of two, so that a clock of 32 bits may wrap.

    >>> small, large = (jax.ShapeDtypeStruct((n,), "float32") for n in (100, 2**20))
    >>> ring_slots(small, buffer_draws=None), ring_slots(large, buffer_draws=None)
    (2048, 1)
    >>> ring_slots(small, buffer_draws=100)
    128
    """
    if buffer_draws is not None:
        return 1 << (buffer_draws - 1).bit_length()
    return fitting_slots(shapes, ring_bytes=RING_BYTES, max_slots=MAX_SLOTS)


def check_buffer_draws(buffer_draws: int | None) -> None:
    """Refuse a size of a ring that makes no sense."""
    if buffer_draws is not None and (not isinstance(buffer_draws, int) or buffer_draws < 1):
        raise ValueError(f"buffer_draws must be a whole number >= 1, got {buffer_draws!r}")


def empty_state(
    receiver: Array, clock: Array, chain: ArrayLike, shapes: PyTree, slots: int
) -> SavingState:
    """A state with nothing in its ring.

    Args:
        receiver: shape=().
        clock: shape=(2,); zero for new chains.
        chain: shape=(); -1 to number chains by lane.
        shapes: A `ShapeDtypeStruct` per leaf, of `raw` leaves.
        slots: Rows of the ring.
    """
    chain = jnp.asarray(chain, jnp.int32)
    state = SavingState(
        receiver=receiver,
        chain=chain,
        clock=clock,
        stop=clock[0] + jnp.uint32(1),  # the first draw goes out at once: errors show early
        steps=jnp.zeros(slots, jnp.uint32),
        ring=jax.tree.map(lambda s: jnp.zeros((slots, *s.shape), s.dtype), shapes),
    )
    # Inside shard_map everything varies over the mesh axes that the chain does.
    axes = varying_axes(chain)
    return jax.tree.map(lambda a: vary(a, axes), state)


def varying_axes(array: Array) -> frozenset[Any]:
    """Mesh axes along which an array inside `shard_map` differs; none elsewhere."""
    aval: Any = jax.typeof(array)
    if hasattr(aval, "mat"):  # since JAX 0.12; `vma` before
        return frozenset(aval.mat.varying)
    return frozenset(getattr(aval, "vma", ()))


def vary(array: Array, axes: frozenset[Any]) -> Array:
    """The same array, marked as different on each device along mesh axes."""
    missing = tuple(axes - varying_axes(array))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def push(
    state: SavingState,
    keep: ArrayLike,
    sample: PyTree,
    *,
    checkpoint: tuple[int, int, PyTree] | None = None,
) -> SavingState:
    """Put one draw into the ring if `keep`, and send the ring when its time has come.

    Args:
        state: Before.
        keep: shape=().
        sample: Like the one given to `init_save`.
        checkpoint: Every so many steps; number of the layout; the sampler's state after the step.
    """
    check_sample(state, sample)
    keep = check_keep(keep)
    ticked, is_ragged = channel.any_chain(keep)
    # Without the barrier a constant `keep` lets XLA merge the flush with the update, and the
    # CPU backend then copies the whole ring at every step.
    ticked = jax.lax.optimization_barrier(ticked)
    clock, stop = channel.shared(state.clock), channel.shared(state.stop)
    tick, step = clock[0], clock[1]
    slot = (tick % state.steps.shape[-1]).astype(jnp.int32)

    def write(ring: Array, leaf: Any) -> Array:
        return jax.lax.dynamic_update_index_in_dim(ring, jax.lax.stop_gradient(leaf), slot, 0)

    ring = jax.tree.map(lambda r, leaf: write(r, raw(leaf)), state.ring, sample)
    steps = write(state.steps, 2 * step + keep)
    clock = clock + jnp.stack([ticked.astype(jnp.uint32), jnp.ones((), jnp.uint32)])
    operands = (state.receiver, state.chain, clock, is_ragged, steps, *jax.tree.leaves(ring))
    is_time, point = ticked & (clock[0] == stop), ()
    if checkpoint is not None:
        every, layout, own = checkpoint
        is_time |= clock[1] % every == 0
        leaves = [jax.lax.stop_gradient(raw(leaf)) for leaf in jax.tree.leaves(own)]
        point = (jnp.uint32(every), jnp.uint32(layout), *leaves)
    stop = channel.send(is_time, stop, operands, point)
    return SavingState(state.receiver, state.chain, clock, stop, steps, ring)


def check_keep(keep: ArrayLike) -> Array:
    """A scalar bool.

    Raises:
        MismatchError: `keep` has axes.
    """
    array = jnp.asarray(keep)
    if array.shape:
        raise MismatchError(
            f"save: keep has shape {array.shape}, it must be one bool. For several chains vmap "
            "the function that calls save, or use scan(chains=, keep=)."
        )
    return array.astype(bool)


def check_sample(state: SavingState, sample: PyTree) -> None:
    """Refuse a sample that the ring was not made for, naming the leaf.

    Raises:
        MismatchError: Structure, shape or dtype differ from the sample given to `init_save`.
    """
    check_like(raw_shapes(sample), state.ring, axes=1)


def check_like(sample: PyTree, arrays: PyTree, *, axes: int) -> None:
    """Refuse a sample unlike the rows of `arrays`, which have `axes` more axes in front."""
    wanted, found = (jax.tree_util.tree_flatten_with_path(t)[0] for t in (arrays, sample))
    treedef: Any = jax.tree.structure(arrays)
    found_treedef: Any = jax.tree.structure(sample)
    if treedef != found_treedef:
        names = [{jax.tree_util.keystr(path) for path, _ in side} for side in (found, wanted)]
        raise MismatchError(
            f"save: the sample has another structure than the one given to init_save: "
            f"{found_treedef} instead of {treedef}; only here: {sorted(names[0] - names[1])}, "
            f"missing: {sorted(names[1] - names[0])}. Save the same leaves at every step."
        )
    for (path, array), (_, leaf) in zip(wanted, found, strict=True):
        leaf = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        if (leaf.shape, leaf.dtype) != (array.shape[axes:], array.dtype):
            raise MismatchError(
                f"save: {jax.tree_util.keystr(path) or 'the sample'} has shape {leaf.shape} and "
                f"dtype {leaf.dtype}, init_save was given shape {array.shape[axes:]} and dtype "
                f"{array.dtype}. Give init_save a sample like the ones you save, or cast this one."
            )


def shapes_of(sample: PyTree) -> PyTree:
    """A `ShapeDtypeStruct` per leaf as the ring holds it.

    Raises:
        MismatchError: A leaf is not an array: its dtype is no JAX dtype.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(sample)[0]:
        if is_key(leaf):
            continue
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not (jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)):
            raise MismatchError(
                f"init_save: {jax.tree_util.keystr(path) or 'the sample'} has dtype {dtype}, "
                "which JAX cannot hold. Leave it out of the sample, or encode it as numbers."
            )
    return raw_shapes(sample)
