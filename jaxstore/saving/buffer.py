"""The ring of draws on the device: the state that `save` carries through somebody's loop.

Owned here: what lies in a `SavingState` and how one draw goes in. How a full ring gets to the host
is `channel`'s, which rows of it are new is `lanes`'.

The ring turns on one clock for all chains. It ticks at every step at which any chain keeps its
draw; the draw of tick t lies in slot t % K of every chain, with its step number beside it, or -1
where that chain did not keep it. No counter is ever reset and no index has a chain axis: on a CPU
a `where` on the carry costs 2 to 3 µs a step, a batched index half as much again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from jaxstore.errors import MismatchError
from jaxstore.saving import channel

STEP_MASK = 2**31 - 1  # the step counter wraps there; the host, which sees all, unwraps it
# Bytes of ring per chain. One call costs about 85 µs: at 512 KiB and 400-byte draws that is
# 0.08 µs a draw; more gains nothing and a thousand chains would hold a gigabyte.
RING_BYTES = 512 * 2**10
MAX_SLOTS = 4096


class SavingState(NamedTuple):
    """State of saving, for the carry of a loop. Each leaf has a leading axis of one.

    (So that `shard_map` can lay the states of its devices side by side with `P("axis")`.)
    """

    receiver: Array  # shape=(1,), uint32; who takes the draws on the host
    chain: Array  # shape=(1,), int32; -1 if numbered by lane
    tick: Array  # shape=(1,), uint32; never mapped
    stop: Array  # shape=(1,), uint32; the tick of the next flush, never mapped
    step: Array  # shape=(1,), int32; calls of save so far
    steps: Array  # shape=(1, slots), int32
    ring: PyTree  # (1, slots, *leaf.shape) each; typed keys as their key data


def is_key(leaf: Any) -> bool:
    """Whether this is a typed PRNG key, as an array or as a shape."""
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def raw(leaf: Any) -> Any:
    """An array as JAX would hold it; a typed key as its data, with the words on the last axis."""
    return jax.random.key_data(leaf) if is_key(leaf) else jnp.asarray(leaf)


def ring_slots(draw_bytes: int, *, buffer_draws: int | None, ring_bytes: int = RING_BYTES) -> int:
    """Slots of a ring: a power of two, so that a clock of 32 bits may wrap.

    >>> ring_slots(400, buffer_draws=None), ring_slots(4 << 20, buffer_draws=None)
    (1024, 1)
    >>> ring_slots(400, buffer_draws=100)
    128
    """
    if buffer_draws is not None:
        return 1 << (buffer_draws - 1).bit_length()
    return 1 << max(0, min(MAX_SLOTS, ring_bytes // max(1, draw_bytes)).bit_length() - 1)


def empty_state(receiver: Array, chain: ArrayLike, shapes: PyTree, slots: int) -> SavingState:
    """A state with nothing kept.

    Args:
        receiver: shape=().
        chain: shape=() or (n,); with n, every leaf gets a leading axis of n, to be sharded.
        shapes: A `ShapeDtypeStruct` per leaf, of `raw` leaves.
        slots: Rows of the ring.
    """
    chain = jnp.atleast_1d(jnp.asarray(chain, jnp.int32))
    n = chain.shape[0]
    return SavingState(
        receiver=jnp.broadcast_to(receiver, (n,)),
        chain=chain,
        tick=jnp.zeros(n, jnp.uint32),
        stop=jnp.ones(n, jnp.uint32),  # the first draw goes out at once: errors show early
        step=jnp.zeros(n, jnp.int32),
        steps=jnp.full((n, slots), -1, jnp.int32),
        ring=jax.tree.map(lambda s: jnp.zeros((n, slots, *s.shape), s.dtype), shapes),
    )


def push(state: SavingState, keep: ArrayLike, sample: PyTree) -> SavingState:
    """Put one draw into the ring if `keep`, and send the ring when its time has come."""
    check_sample(state, sample)
    slots = state.steps.shape[-1]
    keep = jnp.asarray(keep, bool)
    tick, stop, step = state.tick[0], state.stop[0], state.step[0]
    ticked, is_ragged = channel.any_chain(keep)
    # Without the barrier a constant `keep` lets XLA merge the flush with the update, and the
    # CPU backend then copies the whole ring at every step.
    ticked = jax.lax.optimization_barrier(ticked)
    slot = (tick % slots).astype(jnp.int32)

    def write(ring: Array, leaf: Any) -> Array:
        row = jax.lax.stop_gradient(raw(leaf))[None, None]
        return jax.lax.dynamic_update_slice_in_dim(ring, row, slot, 1)

    ring = jax.tree.map(write, state.ring, sample)
    steps = write(state.steps, jnp.where(keep, step, -1))
    tick = tick + ticked
    is_full = ticked & (tick == stop)
    operands = (state.receiver, state.chain, tick, is_ragged, steps, *jax.tree.leaves(ring))
    stop = channel.send(is_full, stop, *operands)
    return SavingState(
        state.receiver, state.chain, tick[None], stop[None], ((step + 1) & STEP_MASK)[None],
        steps, ring,
    )  # fmt: skip


def check_sample(state: SavingState, sample: PyTree) -> None:
    """Refuse a sample that the ring was not made for, naming the leaf.

    Raises:
        MismatchError: Structure, shape or dtype differ from the sample given to `init_save`.
    """
    if state.steps.shape[0] != 1:
        raise MismatchError(
            f"save got a state of {state.steps.shape[0]} chains in one program. Shard or vmap "
            "over its leading axis, or give init_save one chain."
        )
    check_like(jax.eval_shape(lambda tree: jax.tree.map(raw, tree), sample), state.ring, axes=2)


def check_like(sample: PyTree, arrays: PyTree, *, axes: int) -> None:
    """Refuse a sample unlike the rows of `arrays`, which have `axes` more axes in front."""
    wanted, treedef = jax.tree_util.tree_flatten_with_path(arrays)
    found, found_treedef = jax.tree_util.tree_flatten_with_path(sample)
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
        if not (np.issubdtype(dtype, np.number) or dtype == bool or jax.dtypes.issubdtype(
            dtype, np.number
        )):
            raise MismatchError(
                f"init_save: {jax.tree_util.keystr(path) or 'the sample'} has dtype {dtype}, "
                "which JAX cannot hold. Leave it out of the sample, or encode it as numbers."
            )
    return jax.eval_shape(lambda tree: jax.tree.map(raw, tree), sample)
