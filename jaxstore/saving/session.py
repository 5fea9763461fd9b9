"""One `init_save` on the host: takes payloads while the program runs, and its final state.

Owned here: when the next flush is due, how many draws each chain has, the declared limit, and what
of this goes into a checkpoint. Which rows are new is `lanes`'; where draws go is the sink's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from jaxstore.errors import MismatchError, TooManyDrawsError
from jaxstore.interrupt import check as check_interrupt
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.channel import Payload, Point
from jaxstore.saving.checkpoint import Checkpoint, SenderState
from jaxstore.saving.lanes import STEP_RANGE, TICK_RANGE, Lanes, describe
from jaxstore.saving.parts import Part
from jaxstore.stores.base import Json

# A flush should be due about so often: seldom enough to cost nothing, often enough that progress
# moves, Ctrl-C is heard and a kill loses little. The ring's size is the other bound.
FLUSH_EVERY_S = 0.25


class Sink(Protocol):
    """Where the draws of a session go: a run at rest, or a user's own collector."""

    @property
    def error(self) -> BaseException | None:
        """What stopped this sink, None while it works."""
        ...

    def allocate(self, n_chains: int) -> int:
        """Number that many new chains; returns the first number."""
        ...

    def claim(self, chain: int) -> None:
        """Take a chain number that the caller named; raises if it is taken."""
        ...

    def put(self, block: Block) -> None:
        """Take a block, waiting while the queue is full. Raises what stopped the sink."""
        ...

    def positions(self) -> tuple[Json, ...]:
        """Where the registered data loaders are."""
        ...

    def take_part(self, part: Part) -> None:
        """Take what one sender brings to a checkpoint."""
        ...

    def fail(self, error: BaseException) -> None:
        """Take no more draws; `error` is what `put` and `finish` raise from now on."""
        ...

    def abandon(self, error: BaseException) -> None:
        """End what failed, and raise nothing: what came so far stays, and others may take over."""
        ...

    def finish(self, sessions: Sequence[Session], *, has_chain_axis: bool) -> Any:
        """Wait for the draws of sessions and return their samples. Raises what stopped the sink."""
        ...


class Session:
    """The host's side of one `init_save`; a `channel.Receiver`.

    Args:
        sink: Takes the blocks.
        declared: Draws that each chain may keep; None for any number.
    """

    def __init__(self, sink: Sink, *, declared: int | None) -> None:
        self.sink = sink
        self.counts: Counter[int] = Counter()  # draws by chain
        self._declared = declared
        self._lanes = Lanes(sink.allocate, sink.claim)
        # Tick and step at which its programs begin; zero but after `restore`.
        self.clock = (0, 0)
        self.wanted_senders = 0  # of all sessions that its program has, one per device or one
        self._last_steps: dict[tuple[int, ...], int] = {}  # of checkpoints, by sender
        self._flushed_at: dict[tuple[int, ...], tuple[float, int]] = {}
        self._lock = threading.Lock()  # guards all of the above: devices call on their own threads

    @property
    def chains(self) -> tuple[int, ...]:
        """Numbers of the chains seen so far, in order."""
        return self._lanes.chains

    def receive(self, payload: Payload) -> int:
        """Take a payload of the running program; returns the tick of the next flush."""
        with self._lock:
            try:
                check_interrupt()
                self.wanted_senders = max(self.wanted_senders, payload.n_senders)
                is_due = payload.point is not None
                self.put_all(self._lanes.blocks(payload, may_be_empty=is_due))
                if payload.point is not None:
                    self._give_part(payload, payload.point)
                return payload.tick + self._next_flush(payload)
            except BaseException as error:
                # Raising stops the program, but JAX turns any type into its own, so the sink
                # keeps the error for those who ask for it.
                self.sink.fail(error)
                raise

    def receive_last(self, final: Payload, ticks: HostArray) -> None:
        """Take what is left in the rings of a final state; `ticks` is the clock of each lane."""
        with self._lock:
            for lanes in self._lanes.group(final.chain):
                rings = final.take(lanes)._replace(tick=int(ticks[lanes[0]]))
                self.put_all(self._lanes.blocks(rings, may_be_empty=True))

    @property
    def n_senders(self) -> int:
        """Programs, on a device each, that sent something."""
        return self._lanes.n_senders

    def restore(self, point: Checkpoint) -> None:
        """Go on from a checkpoint, in a session that has no chains yet."""
        tick = self._lanes.restore(point.senders)
        self.clock = (tick % TICK_RANGE, point.step % TICK_RANGE)
        self.counts.update({chain: point.draws[chain] for chain in self.chains})

    @property
    def draws(self) -> tuple[int, ...]:
        """Draws of each chain of a session that has the run for itself."""
        return tuple(self.counts[chain] for chain in self.chains)

    def senders(self, *, is_ragged: bool) -> tuple[SenderState, ...]:
        """The chains of `open_chains`, for a checkpoint."""
        return (SenderState((), self.chains, 0, is_ragged, (-1,) * len(self.chains)),)

    def open_chains(self, n_chains: int) -> int:
        """Begin chains whose draws come by `put` alone; returns the first number."""
        return self._lanes.add_sender(n_chains).chains[0]

    def put_all(self, blocks: Iterable[Block]) -> None:
        """Hand on blocks of draws, in order."""
        for block in blocks:
            self.put(block)

    def put(self, block: Block) -> None:
        """Hand on a block of draws.

        Raises:
            TooManyDrawsError: More than declared; those declared were handed on.
        """
        room = block.n_draws
        if self._declared is not None:
            room = self._declared - self.counts[block.first_chain]
        self.sink.put(block if room >= block.n_draws else block.head(room))
        for chain in range(block.first_chain, block.first_chain + block.n_chains):
            self.counts[chain] += min(room, block.n_draws)
        if room < block.n_draws:
            raise TooManyDrawsError(
                f"chain {block.first_chain} keeps more than the {self._declared} draws that "
                "static_information(samples_collected=...) declares; those were saved. "
                "Declare as many as keep is true, or leave static_information out."
            )

    def _give_part(self, payload: Payload, point: Point) -> None:
        """Hand on the state of a sampler, with the draws that precede it."""
        sender = self._lanes.state_of(payload)
        last = self._last_steps.get(sender.named, self.clock[1])
        steps = (point.step - last) % TICK_RANGE
        if not 0 < steps < STEP_RANGE:
            raise MismatchError(
                f"{describe(sender.chains)}: the checkpoint of this step arrived before. Call "
                "init_save for each run."
            )
        self._last_steps[sender.named] = last + steps
        draws = {chain: self.counts[chain] for chain in sender.chains}
        layout, treedef = point.layout
        part = Part(
            step=last + steps,
            layout=layout,
            leaves=point.leaves,
            lanes=point.lanes,
            sender=sender,
            draws=draws,
            loaders=self.sink.positions(),
            treedef=treedef,
        )
        self.sink.take_part(part)

    def _next_flush(self, payload: Payload) -> int:
        """Ticks until the next flush: doubles up to the ring, or halves, as time tells."""
        key = tuple(payload.chain.tolist())
        now = time.monotonic()
        before, ticks = self._flushed_at.get(key, (now, 1))
        if now - before < FLUSH_EVERY_S:
            ticks = min(2 * ticks, payload.steps.shape[1])
        elif now - before > 2 * FLUSH_EVERY_S:
            ticks = max(1, ticks // 2)
        self._flushed_at[key] = (now, ticks)
        # At a multiple, so that a flush is one piece of the ring and chunks are whole flushes.
        return ticks - payload.tick % ticks


def original_of(sinks: Iterable[Sink]) -> BaseException | None:
    """What a `JaxRuntimeError` of a saving program stands for: a sink's own error, or Ctrl-C.

    Python may hear Ctrl-C inside JAX's own code around a callback; no sink knows of it then, but
    the wakeup descriptor does.
    """
    sinks = list(sinks)
    kept = next((sink.error for sink in sinks if sink.error is not None), None)
    if kept is not None:
        return kept
    try:
        check_interrupt()
    except KeyboardInterrupt as error:
        for sink in sinks:
            sink.fail(error)
        return error
    return None
