"""`scan`: `jax.lax.scan` whose stacked outputs go to a collector instead of device memory.

Owned here: the loop over blocks. The host drives it: a compiled block runs until its ring is full
or its time is up, and its draws go to the writer while the next block runs. There is no callback,
so exceptions and Ctrl-C arrive as themselves, between blocks.

Bits do not depend on where blocks end. One compiled instance of the step runs every step up to
`burn_in`, one every step after it, and both boundaries are fixed by the arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxstore.errors import MismatchError
from jaxstore.saving import buffer
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.collectors import MemoryCollector, StoreCollector
from jaxstore.saving.lanes import detach
from jaxstore.saving.progress import Meter
from jaxstore.saving.run import Run
from jaxstore.saving.session import FLUSH_EVERY_S, Session

RING_BYTES = 4 * 2**20  # of all chains together: a chunk, so that the writer need not copy
MAX_SLOTS = 2**16

Step = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which steps keep their draw."""

    length: int
    thin: int = 1
    burn_in: int = 0
    keep: Callable[[Array], Any] | None = None

    def __post_init__(self) -> None:
        for name, low in (("length", 0), ("thin", 1), ("burn_in", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
        if self.length >= 2**31:
            raise ValueError(f"length must be below 2**31, got {self.length}; run it in parts")
        if self.burn_in > self.length:
            raise ValueError(
                f"burn_in={self.burn_in} drops more than the {self.length} steps of the run; "
                "make it shorter than length"
            )
        if self.keep is not None and (self.thin != 1 or self.burn_in):
            raise ValueError("keep says which draws to keep: give it, or thin and burn_in")

    @property
    def n_draws(self) -> int | None:
        """Draws of each chain; None where `keep` decides."""
        return None if self.keep else (self.length - self.burn_in) // self.thin


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
    if buffer_draws is not None and (not isinstance(buffer_draws, int) or buffer_draws < 1):
        raise ValueError(f"buffer_draws must be a whole number >= 1, got {buffer_draws!r}")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((carry, xs))):
        raise TypeError("scan drives the program from the host; inside jit, use jaxstore.save")
    collector = MemoryCollector() if collector is None else collector
    if not isinstance(collector, StoreCollector):
        raise TypeError(f"scan: {collector!r} writes no run; use save with a collector of your own")
    carry = jax.tree.map(lambda leaf: leaf if buffer.is_key(leaf) else jnp.asarray(leaf), carry)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    sample = sample_shapes(step, carry, one, chains=chains)
    if keep is not None:
        kept_shape(keep, chains)
    program = Program(step, schedule, chains, ring_slots(sample, buffer_draws))
    settings = {
        "length": schedule.length, "thin": thin, "burn_in": burn_in, "chains": chains or 1,
    }  # fmt: skip
    session = collector.recording.begin(
        one_chain(sample, chains), declared=None, settings=settings, is_alone=True
    )
    total = None if schedule.n_draws is None else schedule.n_draws * (chains or 1)
    collector.recording.show(Meter(is_shown=progress, total=total))
    try:
        session.open_chains(chains or 1)
        carry = drive(program, carry, xs, session)
        return carry, collector.recording.finish_run([session])
    except BaseException as error:
        # What came so far stays: committed, readable, and marked as interrupted.
        collector.recording.abandon(session, error)
        raise


class Program(NamedTuple):
    """What a block is compiled for; hashable, so equal programs share a compilation."""

    step: Step
    schedule: Schedule
    chains: int | None
    slots: int


class BlockState(NamedTuple):
    """What a block hands to the next, on the device."""

    index: Array  # shape=(), int32; the next step
    carry: PyTree


class Ring(NamedTuple):
    """What a block hands to the host."""

    n_ticks: Array  # shape=(), int32; rows that hold draws
    steps: Array | None  # shape=(slots,) int32; None where the schedule tells
    kept: Array | None  # shape=(slots,) or (slots, chains), bool; None where all rows count
    draws: PyTree  # (slots, *sample.shape) each


def drive(program: Program, carry: PyTree, xs: PyTree, session: Session) -> PyTree:
    """Run all steps, block after block, and hand their draws to the session."""
    schedule = program.schedule
    state = BlockState(jnp.zeros((), jnp.int32), carry)
    index, steps, last = 0, 1, time.monotonic()
    waiting: list[Block] | Iterator[Block] = []
    while index < schedule.length:
        before, in_burn_in = index, index < schedule.burn_in
        end = schedule.burn_in if in_burn_in else schedule.length
        stop = min(end, index + steps)
        if in_burn_in:
            state = jax.block_until_ready(skip(program, state, xs, np.int32(stop)))
            index = stop
        else:
            state, ring = advance(program, state, xs, np.int32(stop))
            jax.tree.map(lambda a: a.copy_to_host_async(), ring)
            index = next_index(program, index, stop, state)
            # The block before this one: an accelerator computes while the host copies.
            put_all(waiting, session)
            waiting = blocks_of(ring, program, before)
        took, last = time.monotonic() - last, time.monotonic()
        # Blocks end by time as well, so that Ctrl-C is heard and progress moves in slow programs.
        steps = pace(steps, ran=index - before, took=took)
    put_all(waiting, session)
    return state.carry


def put_all(blocks: Iterable[Block], session: Session) -> None:
    """Hand blocks to a session."""
    for block in blocks:
        session.put(block)


def next_index(program: Program, index: int, stop: int, state: BlockState) -> int:
    """Where a block that began at `index` ended, without waiting for it if the schedule tells."""
    if program.schedule.keep is not None:
        return int(state.index)
    phase = (index - program.schedule.burn_in) % program.schedule.thin
    return min(stop, index - phase + program.schedule.thin * program.slots)


def pace(steps: int, *, ran: int, took: float) -> int:
    """Steps that the next block may take: about `FLUSH_EVERY_S` seconds of them.

    >>> pace(64, ran=64, took=0.001), pace(64, ran=64, took=10.0)
    (512, 1)
    """
    fitting = int(ran * FLUSH_EVERY_S / max(took, 1e-9))
    return max(1, min(8 * steps, fitting, 2**30))


@partial(jax.jit, static_argnums=0)
def skip(program: Program, state: BlockState, xs: PyTree, stop: Array) -> BlockState:
    """Run to `stop` and drop every sample."""

    def body(state: BlockState) -> BlockState:
        carry, _ = program.step(state.carry, row(xs, state.index))
        return BlockState(state.index + 1, carry)

    return jax.lax.while_loop(lambda s: s.index < stop, body, state)


@partial(jax.jit, static_argnums=0)
def advance(
    program: Program, state: BlockState, xs: PyTree, stop: Array
) -> tuple[BlockState, Ring]:
    """Run to `stop`, or until the ring is full."""
    _, schedule, chains, slots = program
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    shapes = jax.eval_shape(lambda c, x: sample_of(program.step(c, x)), state.carry, one)
    is_free = schedule.keep is not None  # else the schedule tells which steps the rows are
    is_ragged = is_free and kept_shape(schedule.keep, chains) != ()
    ring = Ring(
        jnp.zeros((), jnp.int32),
        jnp.zeros(slots, jnp.int32) if is_free else None,
        jnp.zeros((slots, chains) if is_ragged else slots, bool) if is_free else None,
        jax.tree.map(lambda s: jnp.zeros((slots, *s.shape), s.dtype), shapes),
    )

    def one_step(state: BlockState, ring: Ring) -> tuple[BlockState, Ring]:
        carry, sample = program.step(state.carry, row(xs, state.index))
        rows = Ring(jnp.ones((), jnp.int32), None, None, sample_of((None, sample)))
        if schedule.keep is not None:
            kept = jnp.asarray(schedule.keep(state.index), bool)
            rows = rows._replace(n_ticks=jnp.any(kept).astype(jnp.int32), steps=state.index)
            rows = rows._replace(kept=kept)
        return BlockState(state.index + 1, carry), put_row(ring, rows)

    def last_of_window(state: BlockState, ring: Ring) -> tuple[BlockState, Ring]:
        # The inner loop carries the sample of its last step, so the step is compiled once and
        # a draw is written once per window.
        phase = (state.index - schedule.burn_in) % schedule.thin
        end = jnp.minimum(stop, state.index + schedule.thin - phase)

        def inner(c: tuple[BlockState, PyTree]) -> tuple[BlockState, PyTree]:
            carry, sample = program.step(c[0].carry, row(xs, c[0].index))
            return BlockState(c[0].index + 1, carry), sample_of((None, sample))

        blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        state, sample = jax.lax.while_loop(lambda c: c[0].index < end, inner, (state, blank))
        is_whole = (state.index - schedule.burn_in) % schedule.thin == 0
        rows = Ring(is_whole.astype(jnp.int32), None, None, sample)
        return state, put_row(ring, rows)

    body = one_step if schedule.thin == 1 else last_of_window
    return jax.lax.while_loop(
        lambda c: (c[0].index < stop) & (c[1].n_ticks < slots), lambda c: body(*c), (state, ring)
    )


def put_row(ring: Ring, rows: Ring) -> Ring:
    """The ring with one more row; a row that no chain kept is overwritten by the next."""

    def write(array: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(array, value, ring.n_ticks, 0)

    written = jax.tree.map(write, ring[1:], rows[1:])
    return Ring(ring.n_ticks + rows.n_ticks, *written)


def blocks_of(ring: Ring, program: Program, index: int) -> Iterator[Block]:
    """The draws of a ring that began at a step, chain axis first; a block, or one per chain."""
    n = int(ring.n_ticks)
    if n == 0:
        return
    n_chains = program.chains or 1
    leaves = [np.asarray(leaf)[:n] for leaf in jax.tree.leaves(ring.draws)]
    if program.chains is None:
        leaves = [leaf[:, None] for leaf in leaves]
    if ring.steps is None:
        schedule = program.schedule
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


def sample_of(output: tuple[Any, PyTree]) -> PyTree:
    """The sample that a step gave, typed keys as their data."""
    return jax.tree.map(buffer.raw, output[1])


def row(xs: PyTree, index: Array) -> PyTree:
    """The rows of `xs` at one step."""
    return jax.tree.map(
        lambda a: jax.lax.dynamic_index_in_dim(a, index, 0, keepdims=False), xs
    )


def kept_shape(keep: Callable[[Array], Any], chains: int | None) -> tuple[int, ...]:
    """Shape of what `keep` gives, () or (chains,).

    Raises:
        MismatchError: Neither of the two.
    """
    shape = jax.eval_shape(lambda i: jnp.asarray(keep(i)), jax.ShapeDtypeStruct((), "int32")).shape
    if shape not in {(), (chains,)}:
        raise MismatchError(
            f"keep gives shape {shape} for {chains or 1} chains; it must give one bool, or one "
            "per chain"
        )
    return shape


def steps_of(xs: PyTree, length: int | None) -> int:
    """Number of steps, from `xs` and `length`."""
    lengths = {int(leaf.shape[0]) for leaf in jax.tree.leaves(xs)}
    if length is not None:
        lengths.add(length)
    if len(lengths) != 1:
        raise ValueError(
            f"scan needs one number of steps, got {sorted(lengths, key=str) or 'none'} from the "
            "leading axes of xs and from length"
        )
    return lengths.pop()


def sample_shapes(step: Step, carry: PyTree, one: PyTree, *, chains: int | None) -> PyTree:
    """Shapes of a sample, checked against the number of chains.

    Raises:
        MismatchError: The carry changes, or a leaf has no axis of chains.
    """
    after, sample = jax.eval_shape(step, carry, one)
    before = jax.eval_shape(lambda c: c, carry)
    for (path, old), new in zip(
        jax.tree_util.tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=False
    ):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise MismatchError(
                f"step changes carry{jax.tree_util.keystr(path)} from {old.dtype}{old.shape} to "
                f"{new.dtype}{new.shape}; it must return what it takes"
            )
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise MismatchError(
            f"step takes a carry {jax.tree.structure(before)} and returns "
            f"{jax.tree.structure(after)}; it must return what it takes"
        )
    for path, leaf in jax.tree_util.tree_flatten_with_path(sample)[0]:
        if chains is not None and (not leaf.shape or leaf.shape[0] != chains):
            raise MismatchError(
                f"sample{jax.tree_util.keystr(path)} has shape {leaf.shape} and chains={chains}: "
                "axis 0 must be the chain. vmap your step over the chains."
            )
    return sample


def one_chain(sample: PyTree, chains: int | None) -> PyTree:
    """Shapes of one chain's sample."""
    if chains is None:
        return sample
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), sample)


def ring_slots(sample: PyTree, buffer_draws: int | None) -> int:
    """Rows of the ring, a power of two unless the user says otherwise."""
    raw = jax.eval_shape(lambda tree: jax.tree.map(buffer.raw, tree), sample)
    draw_bytes = sum(s.dtype.itemsize * s.size for s in jax.tree.leaves(raw))
    fitting = min(MAX_SLOTS, RING_BYTES // max(1, draw_bytes))
    return buffer_draws or 1 << max(0, fitting.bit_length() - 1)
