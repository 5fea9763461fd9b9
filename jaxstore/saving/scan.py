"""`scan`: `jax.lax.scan` whose stacked outputs go to a collector instead of device memory.

Owned here: the loop over blocks. The host drives it: a compiled block (`program`) runs until its
ring is full or its time is up, and its draws go to the writer while the next block runs. There is
no callback, so exceptions and Ctrl-C arrive as themselves, between blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxstore.saving import buffer, program
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.collectors import MemoryCollector, StoreCollector
from jaxstore.saving.lanes import detach
from jaxstore.saving.program import BlockState, Program, Ring, Step
from jaxstore.saving.progress import Meter
from jaxstore.saving.run import Run
from jaxstore.saving.schedule import Schedule, kept_shape, steps_of
from jaxstore.saving.session import FLUSH_EVERY_S, Session


def scan(
    step: Step,
    carry: PyTree,
    xs: PyTree = None,
    *,
    length: int | None = None,
    collector: StoreCollector | None = None,
    chains: int | None = None,
    thin: int = 1,
    burn_in: int = 0,
    keep: Callable[[Array], Any] | None = None,
    buffer_draws: int | None = None,
    progress: bool = True,
) -> tuple[PyTree, Run]:
    """`jax.lax.scan(step, carry, xs, length)` with its outputs in a store instead of on the device.

    Memory on the device and on the host stays the same however long the run is. The first
    `burn_in` steps are dropped, then the last step of every window of `thin` is kept.

    Args:
        step: As for `lax.scan`, `(carry, x) -> (carry, sample)`. Pass the same function object
            again and it is not compiled again.
        carry: The first carry.
        xs: Arrays whose leading axis is the step, or None.
        length: Number of steps, where `xs` does not tell.
        collector: A `MemoryCollector` (the default), `HDF5Collector` or `ZarrCollector`. When the
            scan ends it is complete, and stays yours to close.
        chains: Axis 0 of every sample leaf is the chain, and so long (`vmap` your step). None
            makes one chain of samples without such an axis.
        thin: Keep the last draw of so many steps.
        burn_in: Drop the draws of so many steps at the beginning.
        keep: Instead of both: `keep(i)` with the number of the step, shape=(), int32, gives a
            bool for all chains or one per chain, shape=(chains,).
        buffer_draws: Draws of all chains on the device before they go to the host; None takes
            about 4 MiB.
        progress: Whether to show a bar, in a terminal or notebook.

    Returns:
        The last carry, and the `Run`: `run.samples` has the shape (chain, draw, ...).

    Raises:
        ValueError: A length, thin, burn_in or buffer size that makes no sense.
        MismatchError: The carry changes its structure, or samples have no axis of `chains`.
        BusyError: The collector is closed.

    >>> import jax.numpy as jnp, jaxstore as js
    >>> def step(x, _):
    ...     x = x + 1
    ...     return x, {"x": x}
    >>> last, run = js.scan(step, jnp.zeros(4), length=10, chains=4, thin=3, burn_in=1)
    >>> run.samples["x"][0], run.iteration[0]
    (array([ 4.,  7., 10.], dtype=float32), array([3, 6, 9]))
    """
    schedule = Schedule(steps_of(xs, length), thin, burn_in, keep)
    buffer.check_buffer_draws(buffer_draws)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((carry, xs))):
        raise TypeError("scan drives the program from the host; inside jit, use jaxstore.save")
    collector = MemoryCollector() if collector is None else collector
    if not isinstance(collector, StoreCollector):
        raise TypeError(f"scan: {collector!r} writes no run; use save with a collector of your own")
    # A copy, since each block takes the carry's memory over for the next.
    carry = jax.tree.map(jnp.copy, carry)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    sample = program.sample_shapes(step, carry, one, chains=chains)
    if keep is not None:
        kept_shape(keep, chains)
    blocks = Program(step, schedule, chains, program.ring_slots(sample, buffer_draws))
    sizes = {"length": schedule.length, "thin": thin, "burn_in": burn_in, "chains": chains or 1}
    settings = {name: int(value) for name, value in sizes.items()}  # NumPy's are no JSON
    session = collector.recording.begin(
        program.one_chain(sample, chains),
        declared=schedule.n_draws,
        settings=settings,
        is_alone=True,
    )
    total = None if schedule.n_draws is None else schedule.n_draws * (chains or 1)
    collector.recording.show(Meter(is_shown=progress, total=total))
    try:
        session.open_chains(chains or 1)
        carry = drive(blocks, carry, xs, session)
        return carry, collector.recording.finish_run([session])
    except BaseException as error:
        # What came so far stays: committed, readable, and marked as interrupted.
        collector.recording.abandon(error)
        raise


def drive(blocks: Program, carry: PyTree, xs: PyTree, session: Session) -> PyTree:
    """Run all steps, block after block, and hand their draws to the session."""
    schedule, compiled = blocks.schedule, program.compiled(blocks)
    state = BlockState(jnp.zeros((), jnp.int32), carry)
    index, steps, ran, last = 0, 1, 0, time.monotonic()
    waiting: Iterable[Block] = []
    while index < schedule.length:
        before, ran_before, in_burn_in = index, ran, index < schedule.burn_in
        end = schedule.burn_in if in_burn_in else schedule.length
        stop = min(end, index + steps)
        if in_burn_in:
            state = jax.block_until_ready(compiled.skip(state, xs, np.int32(stop)))
            index = stop
        else:
            state, ring = compiled.advance(state, xs, np.int32(stop))
            jax.tree.map(lambda a: a.copy_to_host_async(), ring)
            index = next_index(blocks, index, stop, state)
            # The block before this one: an accelerator computes while the host copies.
            session.put_all(waiting)
            waiting = blocks_of(ring, blocks, before)
        ran = index - before
        took, last = time.monotonic() - last, time.monotonic()
        # Blocks end by time as well, so that Ctrl-C is heard and progress moves in slow programs.
        # What was waited for is the block before, where the runtime only took this one in.
        steps = pace(steps, ran=min(ran, ran_before) if ran_before else 1, took=took)
    session.put_all(waiting)
    return state.carry


def next_index(blocks: Program, index: int, stop: int, state: BlockState) -> int:
    """Where a block that began at `index` ended, without waiting for it if the schedule tells."""
    if blocks.schedule.keep is not None:
        return int(state.step)
    phase = (index - blocks.schedule.burn_in) % blocks.schedule.thin
    return min(stop, index - phase + blocks.schedule.thin * blocks.slots)


def pace(steps: int, *, ran: int, took: float) -> int:
    """Steps that the next block may take: about `FLUSH_EVERY_S` seconds of them.

    >>> pace(64, ran=64, took=0.001), pace(64, ran=64, took=10.0)
    (512, 1)
    """
    fitting = int(ran * FLUSH_EVERY_S / max(took, 1e-9))
    return max(1, min(8 * steps, fitting, 2**30))


def blocks_of(ring: Ring, blocks: Program, index: int) -> Iterator[Block]:
    """The draws of a ring that began at a step, chain axis first; a block, or one per chain."""
    n = int(ring.n_ticks)
    if n == 0:
        return
    n_chains = blocks.chains or 1
    leaves = [np.asarray(leaf)[:n] for leaf in jax.tree.leaves(ring.draws)]
    if blocks.chains is None:
        leaves = [leaf[:, None] for leaf in leaves]
    if ring.steps is None:
        schedule = blocks.schedule
        first = index - (index - schedule.burn_in) % schedule.thin + schedule.thin - 1
        steps = first + schedule.thin * np.arange(n, dtype=np.int64)
    else:
        steps = np.asarray(ring.steps)[:n].astype(np.int64)
    if ring.kept is None or ring.kept.ndim == 1:
        all_steps = np.broadcast_to(steps, (n_chains, n))
        yield Block(0, all_steps, tuple(chain_first(leaf) for leaf in leaves), n_chains)
        return
    kept = np.asarray(ring.kept)[:n]
    for chain in range(n_chains):
        rows = kept[:, chain]
        if rows.any():
            own = tuple(leaf[rows, chain][None] for leaf in leaves)
            yield Block(chain, steps[rows][None], own, n_chains)


def chain_first(rows: HostArray) -> HostArray:
    """(draw, chain, ...) as (chain, draw, ...), without a copy."""
    return np.swapaxes(detach(rows), 0, 1)
