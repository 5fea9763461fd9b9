"""A stochastic program in every surrounding, that a checkpoint is made of and gone on from."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from collecting import assert_same
from jax.sharding import PartitionSpec as P

import jaxstore as js

N_STEPS = 300
EVERY = 17


class Walk(NamedTuple):
    key: jax.Array
    position: jax.Array
    steps: jax.Array


def begin(seed):
    return Walk(jax.random.key(seed), jnp.zeros(2), jnp.zeros((), jnp.int16))


def advance(walk, i):
    key, draw = jax.random.split(walk.key)
    position = jnp.cos(walk.position) + jax.random.normal(draw, (2,))
    walk = Walk(key, position, walk.steps + jnp.int16(1))
    keep = (i % 3 == 0) | (position[0] > 1.2)
    return walk, keep, {"position": position, "draw": draw, "half": position.astype(jnp.bfloat16)}


def sample_of(walk):
    return advance(walk, 0)[2]


def chain(triple, walk, first, *, chain=None, n_steps=N_STEPS):
    """One chain from a step to the end; vmap, shard_map or pmap it."""

    def body(carry, i):
        state, walk = carry
        walk, keep, sample = advance(walk, i)
        state, _ = triple.save(state, keep, sample, i, walk)
        return (state, walk), None

    state = triple.init(sample_of(walk), chain=chain)
    # While, since the first step is known when the program runs.
    _, carry = jax.lax.while_loop(
        lambda c: c[0] < n_steps, lambda c: (c[0] + 1, body(c[1], c[0])[0]), (first, (state, walk))
    )
    return carry


def mesh(n):
    return jax.sharding.Mesh(np.array(jax.devices()[:n]), ("d",))


def one(triple, walks, first):
    return jax.jit(partial(chain, triple))(jax.tree.map(lambda a: a[0], walks), first)


def vmapped(triple, walks, first):
    return jax.jit(jax.vmap(partial(chain, triple), in_axes=(0, None)))(walks, first)


def nested(triple, walks, first):
    def pair(a):
        return a.reshape(2, 2, *a.shape[1:])

    run = jax.vmap(jax.vmap(partial(chain, triple), in_axes=(0, None)), in_axes=(0, None))
    is_flat = walks.key.ndim == 1
    return jax.jit(run)(jax.tree.map(pair, walks) if is_flat else walks, first)


def sharded(triple, walks, first):
    def per_device(walks, first):
        number = jax.lax.axis_index("d")
        state, walk = chain(triple, jax.tree.map(lambda a: a[0], walks), first, chain=number)
        return jax.tree.map(lambda a: a[None], (state, walk))

    run = jax.shard_map(per_device, mesh=mesh(4), in_specs=(P("d"), P()), out_specs=P("d"))
    return jax.jit(run)(walks, first)


def sharded_lanes(triple, walks, first):
    def per_device(walks, first):
        numbers = 2 * jax.lax.axis_index("d") + jnp.arange(2)
        run = jax.vmap(lambda w, c: chain(triple, w, first, chain=c))
        return run(walks, numbers)

    run = jax.shard_map(per_device, mesh=mesh(2), in_specs=(P("d"), P()), out_specs=P("d"))
    return jax.jit(run)(walks, first)


def pmapped(triple, walks, first):
    def per_device(walk, first):
        return chain(triple, walk, first, chain=jax.lax.axis_index("d"))

    return jax.pmap(per_device, axis_name="d", in_axes=(0, None))(walks, first)


PROGRAMS = {f.__name__: f for f in (one, vmapped, nested, sharded, sharded_lanes, pmapped)}


def walks():
    return jax.vmap(begin)(jnp.arange(4))


def attempt(program, collector):
    """Begin or go on, to the end."""
    with js.save(collector, checkpoint_every=EVERY, buffer_draws=8) as triple:
        point = collector.resume(scheduler_state=0, solver_state=begin(0))
        if point is None:
            state, last = program(triple, walks(), 0)
        else:
            assert (np.asarray(point.scheduler_state) == point.step - 1).all()
            assert (np.asarray(point.solver_state.steps) == point.step).all()
            is_one = program is one
            walk = jax.tree.map(lambda a: a[None], point.solver_state)
            state, last = program(triple, walk if is_one else point.solver_state, point.step)
        return triple.postprocess(state), last


def uninterrupted(program):
    triple = js.save(js.MemoryCollector(), buffer_draws=8)
    state, last = program(triple, walks(), 0)
    return triple.postprocess(state), last


def assert_same_saved(found, wanted):
    assert_same(found["sample_count"], wanted["sample_count"])
    for name, leaf in wanted["samples"].items():
        assert_same(found["samples"][name][...], leaf[...])
