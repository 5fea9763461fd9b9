"""Rows `triple` and `chains`: what the triple costs inside a user's scan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import jaxstore as js
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.saving import walk
from benchmarks.saving.sizes import sizes
from benchmarks.table import seconds
from benchmarks.timing import Contender, added_s, ratio
from jaxstore.saving.channel import Payload
from jaxstore.saving.session import Session


def one_chain(bench: Bench) -> list[Figure]:
    """One chain into Memory, against the bare scan and against one io_callback per step."""
    length, few, x = sizes(bench).steps, sizes(bench).callback_steps, walk.start()
    bare, program = walk.bare(walk.step, length), jax.jit(walk.with_triple(walk.step, length))
    received: list[Any] = []
    called = walk.with_callbacks(walk.step, few, received)

    def run_callbacks() -> None:
        jax.block_until_ready(called(x))
        jax.effects_barrier()

    timings = bench.time(
        "triple",
        {
            "bare lax.scan": Contender(lambda: jax.block_until_ready(bare(x))),
            "triple, Memory": Contender(lambda: walk.run_triple(program, x, js.MemoryCollector())),
            f"io_callback, {few} steps": Contender(run_callbacks, received.clear),
        },
    )
    base, saved, callbacks = timings.values()
    slower = ratio(saved, base)
    scale = length / few
    faster = [n * scale for n in ratio(callbacks, saved)]
    per_step = f"{seconds(saved.median_s / length)} / {seconds(base.median_s / length)} a step"
    per_call = f"{seconds(callbacks.median_s / few)} / {seconds(saved.median_s / length)} a step"
    return [
        Figure("triple", "triple / bare lax.scan", slower[0], per_step, at_most(3), *slower[1:]),
        Figure(
            "triple",
            "io_callback per step / triple",
            faster[0],
            per_call,
            at_least(50),
            *faster[1:],
        ),
    ]


def chains(bench: Bench) -> list[Figure]:
    """Many vmapped chains against one, each draw's share of the added cost; and host calls."""
    n, length, few = sizes(bench).n_chains, sizes(bench).steps, sizes(bench).chain_steps
    x, many = walk.start(), jnp.zeros((n, walk.N_FLOATS))
    numbers = jnp.arange(n, dtype=jnp.int32)
    bare, bare_many = walk.bare(walk.step, length), jax.jit(jax.vmap(walk.bare(walk.step, few)))
    contenders = {
        "1, bare": Contender(lambda: jax.block_until_ready(bare(x))),
        f"{n}, bare": Contender(lambda: jax.block_until_ready(bare_many(many))),
    }
    keeps = {"one keep": walk.always, "a keep per chain": walk.alternate}
    for name, keep in keeps.items():
        one = jax.jit(walk.with_triple(walk.step, length, keep))
        contenders[f"1, {name}"] = into_memory(one, x)
        contenders[f"{n}, {name}"] = into_memory(mapped(few, keep), many, numbers)
    timings = bench.time("chains", contenders)
    figures = []
    for name in keeps:
        kept = 2 if keeps[name] is walk.alternate else 1
        one_s = added_s(timings[f"1, {name}"], timings["1, bare"]) / (length // kept)
        many_s = added_s(timings[f"{n}, {name}"], timings[f"{n}, bare"]) / (few * n // kept)
        against = f"{seconds(many_s)} / {seconds(one_s)} added per draw"
        what = f"{n} chains / one chain, {name}"
        figures.append(Figure("chains", what, many_s / one_s, against, at_most(1)))
    return figures + [
        host_calls(name, keep, many, numbers, length=few) for name, keep in keeps.items()
    ]


def into_memory(program: Callable[..., PyTree], x: Array, *numbers: Array) -> Contender:
    """Run a program into host memory."""
    return Contender(lambda: walk.run_triple(program, x, js.MemoryCollector(), *numbers))


def mapped(length: int, keep: walk.Keep) -> Callable[..., PyTree]:
    """The program of the triple for many chains; one state serves all."""
    in_axes = (None, 0, None if keep is walk.always else 0)
    return jax.jit(jax.vmap(walk.with_triple(walk.step, length, keep), in_axes=in_axes))


def host_calls(name: str, keep: walk.Keep, x: Array, numbers: Array, *, length: int) -> Figure:
    """Host calls of one run against the flushes that it needs."""
    slots = js.save(js.MemoryCollector()).init(x[0]).steps.shape[-1]
    # Each chain keeps another draw, so some chain keeps one at every step.
    flushes = math.ceil(length / slots) + int(math.log2(slots)) + 2
    with counted_calls() as calls:
        walk.run_triple(mapped(length, keep), x, js.MemoryCollector(), numbers)
    against = f"{calls[0]} calls for {len(x)} chains, {length} steps, ring of {slots}; {flushes}"
    what = f"host calls / flushes, {name}"
    return Figure("chains", what, calls[0] / flushes, f"{against} flushes", at_most(1))


@contextmanager
def counted_calls() -> Iterator[np.ndarray[Any, Any]]:
    """Count the host calls of programs that run inside: each is one call of `Session.receive`."""
    calls, receive = np.zeros(1, int), Session.receive

    def count(session: Session, payload: Payload) -> int:
        calls[0] += 1
        return receive(session, payload)

    with patch.object(Session, "receive", count):
        yield calls
