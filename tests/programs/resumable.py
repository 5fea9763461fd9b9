"""A run of a stochastic kernel that begins, or goes on where it was, and says how far it is.

python resumable.py HOW WHERE CHUNK_DRAWS BUFFER_DRAWS QUEUE_BYTES LENGTH CHECKPOINT_EVERY PAUSE_S

HOW is "scan", thinned; "ragged", a scan in which each chain keeps draws of its own; or "triple",
the same by `save` in a while loop. Every 10 steps it says how many are made, and PAUSE_S seconds
pass; with 0, neither. `sampled` gives the same draws into any collector.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import jaxstore as js

HOWS = ("scan", "ragged", "triple")
N_CHAINS = 4
THIN, BURN_IN = 3, 7
PAUSE_STEPS = 10


def step_of(pause_s: float) -> Any:
    """A step of random walk Metropolis for all chains."""

    def wait(i: Any) -> Any:
        os.write(1, f"{i}\n".encode())  # as many steps are made
        time.sleep(pause_s)
        return i

    def step(carry: Any, _: Any) -> tuple[Any, Any]:
        i, keys, x = carry
        if pause_s:
            due = i % PAUSE_STEPS == 0
            i = jax.lax.cond(
                due, lambda i: jax.pure_callback(wait, jax.ShapeDtypeStruct((), i.dtype), i),
                lambda i: i, i,
            )  # fmt: skip
        parts = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        keys = parts[:, 0]
        proposal = x + jax.vmap(lambda key: jax.random.normal(key, (3,)))(parts[:, 1])
        log_ratio = 0.5 * ((x**2).sum(1) - (proposal**2).sum(1))
        accepted = jnp.log(jax.vmap(jax.random.uniform)(parts[:, 2])) < log_ratio
        x = jnp.where(accepted[:, None], proposal, x)
        sample = {
            "posterior": {"x": x, "x_half": x.astype(jnp.bfloat16)},
            "sample_stats": {"accepted": accepted, "key": keys},
        }
        return (i + 1, keys, x), sample

    return step


def keep(i: jax.Array) -> jax.Array:
    """Which chains keep the draw of a step: about these shares of all."""
    luck = jax.random.uniform(jax.random.fold_in(jax.random.key(1), i), (N_CHAINS,))
    return luck < jnp.array([0.8, 0.6, 0.4, 0.2])


def first() -> Any:
    return jnp.int32(0), jax.random.split(jax.random.key(0), N_CHAINS), jnp.zeros((N_CHAINS, 3))


def sampled(
    how: str, collector: Any, length: int, *, every: int, pause_s: float = 0.0,
    buffer_draws: int | None = None,
) -> Any:  # fmt: skip
    """Begin or go on, to the end; the run, but for "triple", which makes that of "ragged"."""
    step = step_of(pause_s)
    if how == "triple":
        by_save(step, collector, length, every=every, buffer_draws=buffer_draws)
        return None
    kept: dict[str, Any] = {"thin": THIN, "burn_in": BURN_IN} if how == "scan" else {"keep": keep}
    return js.scan(
        step, first(), length=length, chains=N_CHAINS, collector=collector, resume=True,
        checkpoint_every=every, buffer_draws=buffer_draws, progress=False, **kept,
    )[1]  # fmt: skip


def by_save(step: Any, collector: Any, length: int, *, every: int, buffer_draws: Any) -> None:
    """The ragged run by `save`: lanes of a vmap, in a while loop."""
    init_save, save, postprocess_save = js.save(
        collector, checkpoint_every=every, buffer_draws=buffer_draws
    )
    states = first()
    sample = jax.eval_shape(lambda: jax.tree.map(lambda a: a[0], step(states, None)[1]))
    point = collector.resume(solver_state=jax.tree.map(lambda a: a[0], states[1:]))
    done = 0 if point is None else point.step
    lanes = states[1:] if point is None else point.solver_state

    def chain(saving: Any, lane: Any, own: Any) -> Any:
        def body(carry: Any) -> Any:
            i, saving, (key, x) = carry
            (_, keys, xs), samples = step((i, key[None], x[None]), None)
            state = keys[0], xs[0]
            draw = jax.tree.map(lambda a: a[0], samples)
            saving, _ = save(saving, keep(i)[lane], draw, solver_state=state)
            return i + 1, saving, state

        return jax.lax.while_loop(lambda c: c[0] < length, body, (jnp.int32(done), saving, own))[1]

    def program(own: Any) -> Any:
        return jax.vmap(lambda lane, o: chain(init_save(sample), lane, o))(
            jnp.arange(N_CHAINS), own
        )

    postprocess_save(jax.jit(program)(lanes))


def place_at(where: str) -> Any:
    """A path or URL as it is, or the repository of Icechunk that is or comes there."""
    if not where.endswith(".icechunk"):
        return where
    import icechunk

    return icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(where))


def main() -> None:
    how, where, chunk_draws, buffer_draws, queue_bytes, length, every, pause_s = sys.argv[1:]
    made = js.HDF5Collector if where.endswith(".h5") else js.ZarrCollector
    collector = made(
        place_at(where), group=None, chunk_draws=int(chunk_draws), queue_bytes=int(queue_bytes)
    )
    print("started", flush=True)
    with collector:
        sampled(
            how, collector, int(length), every=int(every), pause_s=float(pause_s),
            buffer_draws=int(buffer_draws),
        )  # fmt: skip
    print("done", flush=True)


if __name__ == "__main__":
    main()
