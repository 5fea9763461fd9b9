"""The compiled part of `scan`: a block of steps that fills a ring.

Owned here: what runs on the device between two visits of the host, and the shapes that it has. The
loop over blocks is `scan`'s.

Bits do not depend on where blocks end: one compiled instance of the step runs every step, those of
burn-in too, whose rows are overwritten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxstore.errors import MismatchError
from jaxstore.saving import buffer
from jaxstore.saving.schedule import Schedule, kept_shape

RING_BYTES = 4 * 2**20  # of all chains together: a chunk, so that the writer need not copy
MAX_SLOTS = 2**16

Step = Callable[[Any, Any], tuple[Any, Any]]


class Program(NamedTuple):
    """What a block is compiled for; hashable, so equal programs share a compilation."""

    step: Step
    schedule: Schedule
    chains: int | None
    slots: int
    fingerprint: str  # of step and keep as they are now; "" where they count by themselves


class BlockState(NamedTuple):
    """What a block hands to the next, on the device."""

    step: Array  # shape=(), int32; the next one
    carry: PyTree


class Ring(NamedTuple):
    """What a block hands to the host."""

    n_ticks: Array  # shape=(), int32; rows that hold draws
    steps: Array | None  # shape=(slots,) int32; None where the schedule tells
    kept: Array | None  # shape=(slots,) or (slots, chains), bool; None where all rows count
    draws: PyTree  # (slots, *sample.shape) each


# Runs to a step, or until the ring is full; takes the memory of the state over for its result.
Advance = Callable[[BlockState, PyTree, Any], tuple[BlockState, Ring]]


def compiled(program: Program) -> Advance:
    """The same function for programs that differ in length at most: compiled once."""
    # Where a block ends is told to it, so the length of the whole is no part of what is compiled.
    schedule = replace(program.schedule, length=program.schedule.burn_in)
    program = program._replace(schedule=schedule)
    try:
        return _remembered(program)
    except TypeError:  # a step that has no hash, such as a callable module of arrays
        return _compiled(program)


def _compiled(program: Program) -> Advance:
    return jax.jit(partial(advance, program), donate_argnums=0)


# Compiled code, and the arrays that a step closed over, go with the entry.
_remembered = lru_cache(maxsize=16)(_compiled)


def advance(
    program: Program, state: BlockState, xs: PyTree, stop: Array
) -> tuple[BlockState, Ring]:
    """Run to `stop`, or until the ring is full."""
    schedule, chains, slots = program.schedule, program.chains, program.slots
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    shapes = jax.eval_shape(lambda c, x: sample_of(program.step(c, x)), state.carry, one)
    is_free = schedule.keep is not None  # else the schedule tells which steps the rows are
    is_ragged = schedule.keep is not None and kept_shape(schedule.keep, chains) != ()
    ring = Ring(
        jnp.zeros((), jnp.int32),
        jnp.zeros(slots, jnp.int32) if is_free else None,
        jnp.zeros((slots, chains) if is_ragged else slots, bool) if is_free else None,
        jax.tree.map(lambda s: jnp.zeros((slots, *s.shape), s.dtype), shapes),
    )

    def one_step(state: BlockState, ring: Ring) -> tuple[BlockState, Ring]:
        carry, sample = program.step(state.carry, row(xs, state.step))
        n_ticks = (state.step >= schedule.burn_in).astype(jnp.int32)
        rows = Ring(n_ticks, None, None, sample_of((None, sample)))
        if schedule.keep is not None:
            kept = jnp.asarray(schedule.keep(state.step), bool)
            rows = rows._replace(n_ticks=jnp.any(kept).astype(jnp.int32), steps=state.step)
            rows = rows._replace(kept=kept)
        return BlockState(state.step + 1, carry), put_row(ring, rows)

    def last_of_window(state: BlockState, ring: Ring) -> tuple[BlockState, Ring]:
        # The inner loop carries the sample of its last step, so the step is compiled once and
        # a draw is written once per window.
        phase = (state.step - schedule.burn_in) % schedule.thin
        end = jnp.minimum(stop, state.step + schedule.thin - phase)

        def inner(c: tuple[BlockState, PyTree]) -> tuple[BlockState, PyTree]:
            carry, sample = program.step(c[0].carry, row(xs, c[0].step))
            return BlockState(c[0].step + 1, carry), sample_of((None, sample))

        blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        state, sample = jax.lax.while_loop(lambda c: c[0].step < end, inner, (state, blank))
        n_after = state.step - schedule.burn_in
        is_whole = (n_after > 0) & (n_after % schedule.thin == 0)
        rows = Ring(is_whole.astype(jnp.int32), None, None, sample)
        return state, put_row(ring, rows)

    body = one_step if schedule.thin == 1 else last_of_window
    return jax.lax.while_loop(
        lambda c: (c[0].step < stop) & (c[1].n_ticks < slots), lambda c: body(*c), (state, ring)
    )


def put_row(ring: Ring, rows: Ring) -> Ring:
    """The ring with one more row; a row that does not count is overwritten by the next."""

    def write(array: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(array, value, ring.n_ticks, 0)

    written = jax.tree.map(write, ring[1:], rows[1:])
    return Ring(ring.n_ticks + rows.n_ticks, *written)


def sample_of(output: tuple[Any, PyTree]) -> PyTree:
    """The sample that a step gave, typed keys as their data."""
    return jax.tree.map(buffer.raw, output[1])


def row(xs: PyTree, index: Array) -> PyTree:
    """The rows of `xs` at one step."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, 0, keepdims=False), xs)


def ring_slots(sample: PyTree, buffer_draws: int | None) -> int:
    """Rows of the ring, a power of two unless the user says otherwise."""
    shapes = buffer.raw_shapes(sample)
    return buffer_draws or buffer.fitting_slots(shapes, ring_bytes=RING_BYTES, max_slots=MAX_SLOTS)


def check_step(carry: PyTree, after: PyTree, sample: PyTree, *, chains: int | None) -> None:
    """Refuse a step that gives, by its shapes, another carry or samples without chains.

    Raises:
        MismatchError: The carry changes, or a leaf has no axis of chains.
    """
    before = jax.eval_shape(lambda c: c, carry)
    old_tree: Any = jax.tree.structure(before)
    new_tree: Any = jax.tree.structure(after)
    for (path, old), new in zip(
        jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=False
    ):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise MismatchError(
                f"step changes carry{jax.tree_util.keystr(path)} from {old.dtype}{old.shape} to "
                f"{new.dtype}{new.shape}; it must return what it takes"
            )
    if old_tree != new_tree:
        raise MismatchError(
            f"step takes a carry {old_tree} and returns {new_tree}; it must return what it takes"
        )
    for path, leaf in jax.tree_util.tree_flatten_with_path(sample)[0]:
        if chains is not None and (not leaf.shape or leaf.shape[0] != chains):
            raise MismatchError(
                f"sample{jax.tree_util.keystr(path)} has shape {leaf.shape} and chains={chains}: "
                "axis 0 must be the chain. vmap your step over the chains."
            )


def one_chain(sample: PyTree, chains: int | None) -> PyTree:
    """Shapes of one chain's sample."""
    if chains is None:
        return sample
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), sample)
