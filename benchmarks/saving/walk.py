"""The sampler that all rows share: a random walk of about 0.7 µs a step.

Owned here: the step, and the programs around it that do and do not save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, PyTree

import jaxstore as js

N_FLOATS = 100
KEY = np.zeros(2, np.uint32)  # of the module, so that `step` is one object and compiled once

Step = Callable[[Array, Array], tuple[Array, Array]]
Keep = Callable[[Array, Array], Any]  # (step, chain) -> bool


def step(x: Array, i: Array) -> tuple[Array, Array]:
    """One step; the sample is the position."""
    x = x * 0.99 + 0.1 * jax.random.normal(jax.random.fold_in(jnp.asarray(KEY), i), x.shape)
    return x, x


def start() -> Array:
    """Where a chain begins."""
    return jnp.zeros(N_FLOATS)


def bare(step: Step, length: int) -> Callable[[Array], Array]:
    """The scan that saves nothing."""

    def program(x: Array) -> Array:
        return jax.lax.scan(lambda x, i: (step(x, i)[0], None), x, jnp.arange(length))[0]

    return jax.jit(program)


def stacked(step: Step, length: int) -> Callable[[Array], tuple[Array, Array]]:
    """The scan that stacks its samples on the device."""
    return jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(length)))


def always(i: Array, chain: Array) -> bool:
    """Keep every draw."""
    return True


def alternate(i: Array, chain: Array) -> Array:
    """Keep every other draw; neighbouring chains keep different ones."""
    return (i + chain) % 2 == 0


def with_triple(
    step: Step, length: int, keep: Keep = always, *, checkpoint_every: int = 0
) -> Callable[..., PyTree]:
    """The scan that saves by the triple: (saving state, x, chain) -> saving state."""
    # The state knows its collector, `save` does not.
    _, save, _ = js.save(js.MemoryCollector(), checkpoint_every=checkpoint_every)

    def program(state: PyTree, x: Array, chain: Array) -> PyTree:
        def body(carry: Any, i: Array) -> Any:
            state, x = carry
            x, sample = step(x, i)
            state, _ = save(state, keep(i, chain), sample, solver_state=x)
            return (state, x), None

        return jax.lax.scan(body, (state, x), jnp.arange(length))[0][0]

    return program


def with_callbacks(step: Step, length: int, received: list[Any]) -> Callable[[Array], Array]:
    """The scan that hands every draw to the host by itself."""

    def program(x: Array) -> Array:
        def body(x: Array, i: Array) -> Any:
            x, sample = step(x, i)
            io_callback(lambda draw: received.append(np.asarray(draw)), None, sample)
            return x, None

        return jax.lax.scan(body, x, jnp.arange(length))[0]

    return jax.jit(program)


def run_scan(
    step: Step, x: Array, xs: Array, collector: Any, *, checkpoint_every: int | None = None
) -> js.Run:
    """`js.scan` into a collector, until its store is closed."""
    how: dict[str, Any] = {"checkpoint_every": checkpoint_every, "progress": False}
    with collector:
        _, run = js.scan(step, x, xs, collector=collector, **how)
    return run


def run_triple(
    program: Callable[..., PyTree],
    x: Array,
    collector: Any,
    *chains: Array,
    checkpoint_every: int = 0,
) -> PyTree:
    """A compiled program of `with_triple` into a collector, until its store is closed.

    Where the program is mapped over axis 0 of `x`, `chains` is one array of chain numbers.
    """
    with collector:
        init_save, _, postprocess_save = js.save(collector, checkpoint_every=checkpoint_every)
        state = program(init_save(x[0] if chains else x), x, *(chains or (np.int32(0),)))
        return postprocess_save(state)
