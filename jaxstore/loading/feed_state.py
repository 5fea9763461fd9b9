"""What a program carries of a feed, and how it gets more: the only `io_callback` of this wing.

Owned here: the state, which lane of a `vmap` is which chain, and one host call for all of them.
What the host gives is `feed_host`'s.

A state tells all that the host needs to know, and the host remembers nothing that matters. So a
state gives the same batches however often it is used, in any process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback
from jaxtyping import Array, ArrayLike


class Cached(NamedTuple):
    """Batches that a state holds, of the host or of a device; in programs a `slots` axis leads."""

    arrays: dict[str, Any]  # by label
    mask: Any  # shape=(batch,), dtype=bool
    seeds: tuple[Any, ...]  # for a device transform: one, shape=(batch, 2), dtype=uint32


class FeedState(NamedTuple):
    """Where a chain is in its batches, for the carry of a loop.

    Batches of all epochs are numbered on; chain i of n has the numbers i, n + i, 2n + i, ...
    """

    loader: Array  # shape=(), dtype=uint32; whose batches these are
    chain: Array  # shape=(), dtype=uint32
    chains: Array  # shape=(), dtype=uint32
    turn: Array  # shape=(2,), dtype=uint32; batches of this chain fetched: low word, high word
    cursor: Array  # shape=(), dtype=int32; the next of `cached`, past their end after the last
    cached: Cached


Take = Callable[..., tuple[Any, Cached]]  # of turn and cached for is_used, loader, chain, ...


@custom_vmap
def lane_of(marks: tuple[Array, ...]) -> tuple[Array, Array]:
    """The number of this lane and how many there are, over all `vmap`s that map any of `marks`.

    Both are of shape=(), dtype=uint32; of nested ones the outermost is the slowest.
    """
    return jnp.zeros((), jnp.uint32), jnp.ones((), jnp.uint32)


@lane_of.def_vmap
def _(axis_size: int, in_batched: Any, marks: tuple[Array, ...]) -> Any:
    outer, n = lane_of(tuple(m[0] if b else m for m, b in zip(marks, in_batched[0], strict=True)))
    lane = outer * axis_size + jnp.arange(axis_size, dtype=jnp.uint32)
    return (lane, n * jnp.uint32(axis_size)), (True, False)


def empty_state(loader: int, chain: ArrayLike, chains: ArrayLike, cached: Cached) -> FeedState:
    """A state before its first batch.

    Args:
        loader: Whose batches these will be.
        chain: shape=().
        chains: shape=().
        cached: Shapes, (slots, *shape) each.
    """
    # custom_vmap may give constants that are no arrays of JAX, of which jit makes another program.
    return FeedState(
        jnp.uint32(loader),
        jnp.asarray(chain, jnp.uint32),
        jnp.asarray(chains, jnp.uint32),
        jnp.zeros(2, jnp.uint32),
        jnp.int32(cached.mask.shape[0]),
        jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), cached),
    )


def make_refill(take: Take) -> Callable[[FeedState], FeedState]:
    """A function that fetches batches when those in a state are used up.

    Args:
        take: Is called on the host, for all lanes at once: the lanes whose batches are used up,
            and `loader`, `chain`, `chains` and `turn` of all lanes.
    """

    # The cond is in here, hidden from vmap, which refuses one with a callback in it.
    @custom_vmap
    def refill(state: FeedState) -> FeedState:
        is_used = state.cursor >= state.cached.mask.shape[state.cursor.ndim]

        def fetch(old: FeedState) -> FeedState:
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (old.turn, old.cached)
            )
            turn, cached = io_callback(take, shapes, is_used, *old[:4])
            new = old._replace(turn=turn, cursor=jnp.zeros_like(old.cursor), cached=cached)
            return jax.tree.map(lambda a, b: _choose(is_used, a, b), new, old)

        return jax.lax.cond(jnp.any(is_used), fetch, lambda old: old, state)

    @refill.def_vmap
    def _(axis_size: int, in_batched: Any, state: FeedState) -> Any:
        # After one lane was fetched for, all have a cache of their own.
        spread = jax.tree.map(
            lambda x, b: x if b else jnp.broadcast_to(x, (axis_size, *x.shape)),
            state,
            in_batched[0],
        )
        return refill(spread), jax.tree.map(lambda _: True, state)

    return refill


def current(state: FeedState) -> tuple[FeedState, Cached]:
    """The batch at the cursor, and the state after it."""
    batch = jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(a, state.cursor, keepdims=False), state.cached
    )
    return state._replace(cursor=state.cursor + 1), batch


def _choose(is_used: Array, new: Array, old: Array) -> Array:
    """New for the lanes that asked for it."""
    if not is_used.ndim and jax.typeof(new) == jax.typeof(old):
        return new  # a choice between arrays would cost a pass over both
    # Inside shard_map what came from the host has the type of something that all devices share;
    # the choice makes it that of one device.
    wide = is_used.reshape(is_used.shape + (1,) * (new.ndim - is_used.ndim))
    return jnp.where(wide, new, old)
