"""`scan`: `jax.lax.scan` whose stacked outputs go to a collector instead of device memory.

Owned here: the loop over blocks. The host drives it: a compiled block (`program`) runs until its
ring is full or its time is up, and its draws go to the writer while the next block runs. There is
no callback, so exceptions and Ctrl-C arrive as themselves, between blocks. Checkpoints are
`keeper`'s, what makes two runs the same `identity`'s, a Ctrl-C that Python loses `interrupt`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxstore.errors import MismatchError
from jaxstore.fingerprint import with_shapes
from jaxstore.interrupt import check_lost, listening
from jaxstore.saving import buffer, program
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.collectors import MemoryCollector
from jaxstore.saving.identity import check_same_scan, check_settings, identity_of
from jaxstore.saving.keeper import Keeper, Pulse
from jaxstore.saving.lanes import detach
from jaxstore.saving.program import BlockState, Program, Ring, Step
from jaxstore.saving.progress import Meter
from jaxstore.saving.recording import Recording
from jaxstore.saving.resumption import Found
from jaxstore.saving.run import Run
from jaxstore.saving.schedule import Schedule, kept_shape, steps_of
from jaxstore.saving.session import FLUSH_EVERY_S, Session
from jaxstore.saving.store_collector import StoreCollector
from jaxstore.stores.base import Json


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
    checkpoint_every: int | None = None,
    resume: bool = False,
    buffer_draws: int | None = None,
    progress: bool = True,
) -> tuple[PyTree, Run]:
    """`jax.lax.scan(step, carry, xs, length)` with its outputs in a store instead of on the device.

    Memory on the device and on the host stays the same however long the run is. The first
    `burn_in` steps are dropped, then the last step of every window of `thin` is kept.

    With `resume=True` the same call begins a run, goes on with one that was stopped or killed, and
    gives back one that is complete; with a greater `length` it makes a complete one longer. What
    it stores is, bit for bit, what a run stores that was never interrupted. A kill costs the steps
    since the last checkpoint.

    Args:
        step: As for `lax.scan`, `(carry, x) -> (carry, sample)`. Pass the same function object
            again and it is not compiled again.
        carry: The first carry. Of a run that is resumed it may be its `jax.eval_shape`.
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
        checkpoint_every: Steps between checkpoints of the carry; more where they would take more
            than a twentieth of the time. None makes one about every ten seconds in HDF5 and Zarr,
            none in memory; 0 makes none.
        resume: Whether to go on with the run that is at the collector's place, if one is.
        buffer_draws: Draws of all chains on the device before they go to the host; None takes
            about 4 MiB.
        progress: Whether to show a bar, in a terminal or notebook.

    Returns:
        The last carry, and the `Run`: `run.samples` has the shape (chain, draw, ...).

    Raises:
        ValueError: A length, thin, burn_in or buffer size that makes no sense.
        MismatchError: The carry changes its structure, or samples have no axis of `chains`.
            With `resume`: the run is that of another program, or has no checkpoint.
        BusyError: The collector is closed, or somebody else writes to the run.
        ExistsError: Something is at the collector's place already, and `resume` is False.
        KeyboardInterrupt: Ctrl-C, between blocks; what came before is committed.

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
    with listening():
        is_default = resume or not isinstance(collector, MemoryCollector)
        pulse = Pulse.of(checkpoint_every, is_default=is_default)
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
        identity: dict[str, Json] = {}
        if pulse.is_on or resume:
            traced, (after, sample) = with_shapes(step, carry, one)
            identity = identity_of(traced, schedule, carry, xs)
        else:
            after, sample = jax.eval_shape(step, carry, one)
        # What is remembered of a step may be older than its helpers, which the fingerprint knows.
        program_id = f"{identity['step']} {identity['keep']}" if identity else ""
        program.check_step(carry, after, sample, chains=chains)
        if keep is not None:
            kept_shape(keep, chains)
        slots = program.ring_slots(sample, buffer_draws)
        blocks = Program(step, schedule, chains, slots, program_id)
        job = Job(blocks, xs, pulse, program.one_chain(sample, chains), progress)
        found = collector.take_up() if resume else None
        if found is None:
            check_has_values(carry, place=collector.recording.place)
            return run_job(job, carry, None, collector.recording, identity=identity)
        try:
            check_settings(found, schedule, chains)
            identity = check_same_scan(found, identity)
            carry = carry_of(found, carry)
            return run_job(job, carry, found, collector.recording, identity=identity)
        except BaseException:
            collector.close()  # what was taken up is let go of
            raise


@dataclass(frozen=True, slots=True)
class Job:
    """A scan as it was asked for."""

    blocks: Program
    xs: PyTree
    pulse: Pulse
    sample: PyTree  # shapes of one chain's
    progress: bool


def run_job(
    job: Job,
    carry: PyTree,
    found: Found | None,
    recording: Recording,
    *,
    identity: Mapping[str, Json],
) -> tuple[PyTree, Run]:
    """Begin or go on, and run to the end."""
    schedule, chains = job.blocks.schedule, job.blocks.chains
    point = found.checkpoint if found else None
    if found and point and found.is_complete and point.step == schedule.length:
        return carry, recording.give_back(found, job.sample)
    # Copies, since each block takes the carry's memory over for the next. Without weak types: what
    # comes back from a checkpoint has none.
    carry = jax.tree.map(strong_copy, carry)
    sizes = {
        "length": schedule.length,
        "thin": schedule.thin,
        "burn_in": schedule.burn_in,
        "chains": chains or 1,
    }
    settings: dict[str, Json] = {name: int(n) for name, n in sizes.items()}  # NumPy's are no JSON
    if job.pulse.is_on:
        settings["checkpoint_every"] = job.pulse.told
    session = recording.begin(
        job.sample,
        declared=schedule.n_draws,
        settings=settings,
        identity=identity,
        is_alone=True,
    )
    total = None if schedule.n_draws is None else schedule.n_draws * (chains or 1)
    recording.show(Meter(is_shown=job.progress, total=total))
    try:
        if point is None:
            session.open_chains(chains or 1)
        state = BlockState(jnp.int32(point.step if point else 0), carry)
        carry = drive(job, state, Keeper(job.blocks, job.pulse, session, recording), session)
        return carry, recording.finish_run([session])
    except BaseException as error:
        # What came so far stays: committed, readable, and marked as interrupted.
        recording.abandon(error)
        raise


def carry_of(found: Found, carry: PyTree) -> PyTree:
    """The carry to go on with: that of the checkpoint, laid out as the first one."""
    if found.checkpoint is None:
        check_has_values(carry, place=found.store.location)
        return carry
    restored = replace(found.checkpoint, templates={"carry": carry}).part("carry")
    return jax.tree.map(placed_as, restored, carry)


def placed_as(value: Array, leaf: Any) -> Array:
    """A value on the devices of a leaf, where that was put on some."""
    return jax.device_put(value, leaf.sharding) if getattr(leaf, "committed", False) else value


def check_has_values(carry: PyTree, *, place: str) -> None:
    """Refuse to begin with a carry of shapes."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(carry)):
        raise MismatchError(
            f"scan was given the shape of a carry, and there is no run at {place} to go on with. "
            "Give the first carry."
        )


def strong_copy(leaf: Any) -> Array:
    """A copy of an array whose type is not weak."""
    copied = jnp.copy(leaf)
    return copied if buffer.is_key(copied) else jax.lax.convert_element_type(copied, copied.dtype)


def drive(job: Job, state: BlockState, keeper: Keeper, session: Session) -> PyTree:
    """Run all steps that are left, block after block, and hand their draws to the session."""
    blocks, schedule, advance = job.blocks, job.blocks.schedule, program.compiled(job.blocks)
    index, steps, ran, last = int(state.step), 1, 0, time.monotonic()
    waiting: Iterable[Block] = []
    if index == 0:
        keeper.keep(index, state.carry)
    while index < schedule.length:
        check_lost()
        before, ran_before = index, ran
        stop = keeper.stop(index, min(next_edge(blocks, index), index + steps))
        state, ring = advance(state, job.xs, np.int32(stop))
        jax.tree.map(lambda a: a.copy_to_host_async(), ring)
        index = next_index(blocks, index, stop, state)
        # The block before this one: an accelerator computes while the host copies.
        session.put_all(waiting)
        keeper.hand_over()
        waiting = blocks_of(ring, blocks, before)
        if index == schedule.length or keeper.is_due(index):
            keeper.keep(index, state.carry)
        ran = index - before
        took, last = time.monotonic() - last, time.monotonic()
        # Blocks end by time as well, so that Ctrl-C is heard and progress moves in slow programs.
        # What was waited for is the block before, where the runtime only took this one in.
        steps = pace(steps, ran=min(ran, ran_before) if ran_before else 1, took=took)
    session.put_all(waiting)
    keeper.hand_over()
    return state.carry


def next_edge(blocks: Program, index: int) -> int:
    """Where a block ends at last: with burn-in, or with a full ring, had all before been full.

    So blocks are whole chunks again after one that a checkpoint made shorter.
    """
    schedule, full = blocks.schedule, blocks.slots * blocks.schedule.thin
    if schedule.keep is not None:
        return schedule.length
    if index < schedule.burn_in:
        return schedule.burn_in
    past = (index - schedule.burn_in) // full + 1
    return min(schedule.length, schedule.burn_in + past * full)


def next_index(blocks: Program, index: int, stop: int, state: BlockState) -> int:
    """Where a block that began at `index` ended, without waiting for it if the schedule tells."""
    if blocks.schedule.keep is not None:
        return int(state.step)
    if index < blocks.schedule.burn_in:
        return stop
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
