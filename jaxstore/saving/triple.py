"""`save`: a triple of pure functions that carry draws out of a loop.

Owned here: what the three functions mean. The ring is `buffer`'s, the host side `session`'s.
The shape of the triple is that of jax_sgmc.io (Thaler, Fuchs, Cukarska, Zavadlav, 2024,
https://doi.org/10.1016/j.softx.2024.101722).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PyTree

from jaxstore.errors import BusyError
from jaxstore.interrupt import Listener
from jaxstore.saving import buffer, channel
from jaxstore.saving.buffer import SavingState
from jaxstore.saving.checkpoint import layout_of_state
from jaxstore.saving.collectors import MemoryCollector
from jaxstore.saving.data_collector import DataCollector
from jaxstore.saving.progress import Meter
from jaxstore.saving.session import Session, Sink, original_of
from jaxstore.saving.static import StaticInformation, declared_draws
from jaxstore.saving.store_collector import StoreCollector
from jaxstore.saving.user_sink import UserSink


class Triple(NamedTuple):
    """Three functions that save draws; unpacks as `init_save, save, postprocess_save`."""

    init: Callable[..., Any]
    save: Callable[..., tuple[Any, None]]
    postprocess: Callable[..., dict[str, Any]]


class Saving(Triple):
    """A triple that is a context manager too: errors leave its block as themselves."""

    sinks: WeakSet[Sink]
    listener: Listener

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        original = None
        if isinstance(error, jax.errors.JaxRuntimeError):
            original = original_of(self.sinks)
        self.listener.stop()
        if error is not None:
            for sink in self.sinks:
                sink.abandon(original or error)
        if original is not None:
            raise original from error


def save(
    collector: StoreCollector | DataCollector | None = None,
    *,
    checkpoint_every: int = 0,
    buffer_draws: int | None = None,
    progress: bool = False,
) -> Saving:
    """Save draws from inside `jit`, `scan`, `vmap` and the rest, while the program runs.

    - `init_save(init_sample, init_checkpoint=None, static_information=None, *, chain=None)` gives
      a `SavingState` for the carry; call it outside the program or inside, where lanes of a
      `vmap` become chains. Under `shard_map` and `pmap` tell `chain=`, a scalar int: the number
      of this chain, for instance `jax.lax.axis_index("devices")`.
    - `save(state, keep, sample, scheduler_state=None, solver_state=None)` gives `(state, None)`,
      as a scan body may return it. `keep` is a scalar bool, of its own for each chain if you
      like. The two states are what the next step needs; they go into checkpoints.
    - `postprocess_save(state)` gives `{"sample_count", "samples"}`: arrays from a
      `MemoryCollector`, lazy handles from HDF5 and Zarr; `(draw, ...)` for one chain,
      `(chain, draw, ...)` where the state has lanes.

    Draws are exact and in order whatever surrounds them. They collect in a ring on the device,
    which goes to the host in one call for all chains when it is full, and about four times a
    second in slow programs. A kill loses what is in the ring and in the writer's queue.

    An exception of the collector, or Ctrl-C, stops the program. JAX raises its own type then. It
    becomes the original again in `postprocess_save`, in the block of `with collector:`, and in
    that of `with js.save(collector) as (init_save, save, postprocess_save):`.

    With `checkpoint_every`, a run that was killed goes on as if it had not been, bit for bit:
    `collector.resume()` gives the states and the step after which they were, and the next
    `init_save` a saving state that goes on there. Under `shard_map` and `pmap` a checkpoint counts
    when every device has come to its step.

    Args:
        collector: A `MemoryCollector`, `HDF5Collector`, `ZarrCollector`, or a `DataCollector` of
            your own. None keeps draws in host memory.
        checkpoint_every: Calls of `save` between checkpoints of the sampler; 0 makes none. Those
            that come faster than they can be written are left out, the latest never.
        buffer_draws: Draws per chain in the ring, rounded up to a power of two. None takes
            1 MiB per chain, at most 4096 draws.
        progress: Whether to show a bar in a terminal or notebook.

    Raises:
        MismatchError: By `save`, while tracing: a sample unlike the one given to `init_save`.
        TooManyDrawsError: By `postprocess_save`: more draws than declared.

    >>> import jax, jax.numpy as jnp, jaxstore as js
    >>> init_save, save, postprocess_save = js.save(js.MemoryCollector())
    >>> def chain(key):
    ...     def step(carry, i):
    ...         state, x = carry
    ...         x = x + jax.random.normal(jax.random.fold_in(key, i))
    ...         state, _ = save(state, i >= 2, {"x": x})
    ...         return (state, x), None
    ...     return jax.lax.scan(step, (init_save({"x": 0.0}), 0.0), jnp.arange(10))[0][0]
    >>> saved = postprocess_save(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 4)))
    >>> saved["samples"]["x"].shape, saved["sample_count"].tolist()
    ((4, 8), [8, 8, 8, 8])
    """
    if collector is None:
        collector = MemoryCollector()
    if not isinstance(collector, StoreCollector | DataCollector):
        raise TypeError(
            f"save: {collector!r} is no collector. Use MemoryCollector, HDF5Collector or "
            "ZarrCollector, or give it the methods of DataCollector."
        )
    buffer.check_buffer_draws(buffer_draws)
    check_every(checkpoint_every)
    is_own = not isinstance(collector, StoreCollector)
    if checkpoint_every and is_own and not hasattr(collector, "checkpoint"):
        raise TypeError(
            f"save: checkpoint_every={checkpoint_every}, and {type(collector).__name__} has no "
            "method checkpoint(chain_id, state). Add it, or leave checkpoint_every out."
        )

    shared = Shared(collector, checkpoint_every, buffer_draws, progress=progress)
    saving = Saving(shared.init_save, shared.save, shared.postprocess_save)
    saving.sinks, saving.listener = shared.sinks, shared.listener
    return saving


class Shared:
    """What the functions of one triple share: where draws go and who listens for Ctrl-C."""

    def __init__(
        self, collector: Any, checkpoint_every: int, buffer_draws: int | None, *, progress: bool
    ) -> None:
        self._collector = collector
        self._checkpoint_every = checkpoint_every
        self._buffer_draws = buffer_draws
        self._progress = progress
        self.sinks: WeakSet[Sink] = WeakSet()
        self.listener = Listener()

    def init_save(
        self,
        init_sample: PyTree,
        init_checkpoint: PyTree = None,
        static_information: StaticInformation | None = None,
        *,
        chain: ArrayLike | None = None,
    ) -> SavingState:
        """A saving state for chains that begin, or go on, when the program runs."""
        shapes = buffer.shapes_of(init_sample)
        sample = jax.tree.map(as_known, init_sample)

        def begin() -> tuple[Session, tuple[int, int]]:
            session = begin_session(
                self._collector,
                sample,
                init_checkpoint,
                static_information,
                checkpoint_every=self._checkpoint_every,
                progress=self._progress,
            )
            self.sinks.add(session.sink)
            return session, session.clock

        self.listener.start()
        slots = buffer.ring_slots(shapes, buffer_draws=self._buffer_draws)
        number, clock = channel.register_when_run(begin)
        return buffer.empty_state(number, clock, -1 if chain is None else chain, shapes, slots)

    def save(
        self,
        state: SavingState,
        keep: ArrayLike,
        sample: PyTree,
        scheduler_state: PyTree = None,
        solver_state: PyTree = None,
    ) -> tuple[SavingState, None]:
        """Keep one draw of every chain for which `keep` is true."""
        if not self._checkpoint_every:
            return buffer.push(state, keep, sample), None
        own = {"scheduler_state": scheduler_state, "solver_state": solver_state}
        number = channel.number_of((layout_of_state(own), jax.tree.structure(own)))
        checkpoint = (self._checkpoint_every, number, own)
        return buffer.push(state, keep, sample, checkpoint=checkpoint), None

    def postprocess_save(self, state: SavingState, _: Any = None) -> dict[str, Any]:
        """The samples of a final state, when all of them are with the collector."""
        try:
            return finish(state, self.sinks)
        finally:
            self.listener.stop()


def check_every(checkpoint_every: int) -> None:
    """Refuse a number of steps that makes no sense."""
    if not isinstance(checkpoint_every, int) or not 0 <= checkpoint_every < 2**31:
        raise ValueError(
            f"checkpoint_every must be a whole number >= 0 of steps, got {checkpoint_every!r}"
        )


def as_known(leaf: Any) -> Any:
    """A leaf itself where its value is known, its shape where it is being traced."""
    if isinstance(leaf, jax.core.Tracer):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


def begin_session(
    collector: Any,
    sample: PyTree,
    checkpoint: PyTree,
    information: Any,
    *,
    checkpoint_every: int,
    progress: bool,
) -> Session:
    """A session on a collector, with a progress bar if wanted."""
    declared = declared_draws(information)
    if isinstance(collector, StoreCollector):
        sink: Any = collector.recording
        settings = {"checkpoint_every": checkpoint_every} if checkpoint_every else {}
        session = sink.begin(sample, declared=declared, settings=settings)
    else:
        sink = UserSink(collector, sample, checkpoint, information)
        session = Session(sink, declared=declared)
    if progress:
        sink.show(Meter(is_shown=True))
    return session


def finish(state: SavingState, sinks: Iterable[Sink]) -> dict[str, Any]:
    """Hand over what is left in the ring, wait for the writer, and give the samples.

    Raises:
        BaseException: What stopped the collector, as itself.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(state)):
        raise TypeError(
            "postprocess_save waits for files and cannot run inside jit or vmap. Return the "
            "saving state from the program and call it outside."
        )
    try:
        jax.block_until_ready(state)
    except jax.errors.JaxRuntimeError as error:
        original = original_of(sinks)
        if original is None:
            raise
        raise original from error
    has_chain_axis = state.stop.ndim > 0
    rings = jax.tree.leaves(state.ring)
    final = channel.payload_of(state.chain, state.clock, False, state.steps, rings)
    by_sink: dict[Sink, list[Session]] = {}
    for session, lanes in sessions_of(state):
        if session.sink.error is not None:
            raise session.sink.error
        session.receive_last(final.take(lanes), np.asarray(state.clock).reshape(-1, 2)[lanes, 0])
        by_sink.setdefault(session.sink, []).append(session)
    results, counts = [], []
    for sink, sessions in by_sink.items():
        results.append(sink.finish(sessions, has_chain_axis=has_chain_axis))
        every: Counter[int] = Counter()
        for session in sessions:
            every.update({chain: session.counts[chain] for chain in session.chains})
            channel.release(session)
        counts += [every[chain] for chain in sorted(every)]
    return {
        "sample_count": jnp.asarray(counts if has_chain_axis else counts[0]),
        "samples": results[0] if len(results) == 1 else results,
    }


def sessions_of(state: SavingState) -> Iterator[tuple[Session, list[int]]]:
    """The sessions that a state belongs to, each with its lanes.

    Raises:
        BusyError: The state was post-processed before, or its collector closed.
    """
    lanes: dict[Session, list[int]] = {}
    for lane, number in enumerate(np.asarray(state.receiver).reshape(-1).tolist()):
        session = channel.find_receiver(number)
        if not isinstance(session, Session):
            raise BusyError(
                "these chains are finished: postprocess_save was called on this state, or its "
                "collector was closed. Call init_save for new ones."
            )
        lanes.setdefault(session, []).append(lane)
    yield from lanes.items()
