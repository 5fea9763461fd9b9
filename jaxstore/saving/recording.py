"""A run being recorded: the sessions of a built-in collector, from the first to the last.

Owned here: when a run begins, goes on and ends, and who may hand on draws. How it is written is
`run_writer`'s and `recorder`'s; `collectors` are the public face of this.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
from jaxtyping import PyTree

from jaxstore.errors import BusyError, MissingError
from jaxstore.saving import channel
from jaxstore.saving.beginning import begin_run, check_free
from jaxstore.saving.block import Block
from jaxstore.saving.chain_numbers import ChainNumbers
from jaxstore.saving.checkpoint import Checkpoint
from jaxstore.saving.exits import close_at_exit
from jaxstore.saving.layout import Layout, check_coords, check_same_leaves, layout_of
from jaxstore.saving.loaders import Loaders
from jaxstore.saving.options import Options, Place
from jaxstore.saving.parts import Gathering, Part, join_parts
from jaxstore.saving.progress import Meter, Status
from jaxstore.saving.resumption import Found, cut_back, ended_of, find_run
from jaxstore.saving.run import Run
from jaxstore.saving.run_writer import RunWriter
from jaxstore.saving.session import Session
from jaxstore.stores.base import Json


class Recording:
    """Writes one run into one store; the sink of its sessions.

    Args:
        place: Where the run lies.
        options: How.
        loaders: Whose positions go into checkpoints.
        on_finish: Called with the run and the chains that finished.
    """

    def __init__(
        self,
        place: Place,
        options: Options,
        loaders: Loaders,
        on_finish: Callable[[Run, tuple[int, ...]], None] = lambda run, chains: None,
    ) -> None:
        self.place = place.name
        self._place = place
        self._options = options
        self._loaders = loaders
        self._on_finish = on_finish
        self._writer = RunWriter(place.name, queue_bytes=options.queue_bytes)
        self._layout: Layout | None = None
        self._treedef: Any = None
        self._sessions: set[Session] = set()  # begun and not finished
        self._numbers = ChainNumbers(place.name)
        self._ended: dict[int, int] = {}  # draws of the chains of finished sessions
        self._is_taken = False  # by a session that must have it for itself
        self._found: Found | None = None  # taken up, and not yet changed
        self._restored: Session | None = None  # goes on where a checkpoint was, until it finishes
        self._gathering = Gathering()
        self._closing: Future[None] | None = None  # when closed
        self._lock = threading.RLock()  # guards all of the above; the writer has its own

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more sessions."""
        return self._closing is not None

    @property
    def is_used(self) -> bool:
        """Whether it has a run, or can take none."""
        return self.is_closed or self.error is not None or self._writer.store is not None

    @property
    def error(self) -> BaseException | None:
        """What stopped the writer, None while it works."""
        return self._writer.error

    def allocate(self, n_chains: int) -> int:
        """Number that many new chains; returns the first number."""
        return self._numbers.allocate(n_chains)

    def claim(self, chain: int) -> None:
        """Take a chain number that the caller named; raises if it is taken."""
        self._numbers.claim(chain)

    def put(self, block: Block) -> None:
        """Queue a block; waits while the queue is full. Raises what stopped the writer."""
        self._writer.put(block)

    def put_checkpoint(self, point: Checkpoint) -> None:
        """Queue a checkpoint behind the draws that precede it. Raises what stopped the writer."""
        self._writer.put_checkpoint(point)

    @property
    def checkpoint_s(self) -> float:
        """Seconds that the last checkpoint took to write."""
        return self._writer.checkpoint_s

    @property
    def has_loaders(self) -> bool:
        """Whether data loaders are registered."""
        return len(self._loaders) > 0

    def give_back(self, found: Found, sample: PyTree) -> Run:
        """The run that was taken up, as it is, to read; nothing of it is changed."""
        with self._lock:
            reader, self._found, self._writer.store = found.store.reader(), None, None
            found.store.close()
            return Run(reader, treedef=jax.tree.structure(sample))

    def positions(self) -> tuple[Json, ...]:
        """Where the registered data loaders are."""
        return self._loaders.positions()

    def take_part(self, part: Part) -> None:
        """Take what one sender brings to a checkpoint; the last of a step completes it."""
        with self._lock:
            wanted = max(session.wanted_senders for session in self._sessions)
            n_senders = max(wanted, sum(session.n_senders for session in self._sessions))
            parts, ended = self._gathering.take(part, n_senders=n_senders), dict(self._ended)
        if parts:
            self.put_checkpoint(join_parts(parts, ended=ended))

    def fail(self, error: BaseException) -> None:
        """Take no more draws; what is queued is still written."""
        self._writer.fail(error)

    def finish(self, sessions: Sequence[Session], *, has_chain_axis: bool) -> PyTree:
        """Write the last draws of sessions and return their samples in the user's structure."""
        run = self.finish_run(sessions)
        chains = chains_of(sessions)
        if not has_chain_axis:
            leaves = [array.of_chain(chains[0]) for array in run.leaves]
        elif chains == tuple(range(run.n_chains)):
            leaves = list(run.leaves)
        else:
            leaves = [array.of_chains(chains) for array in run.leaves]
        return jax.tree.unflatten(self._treedef, [leaf.resolve() for leaf in leaves])

    def find(self) -> Found | None:
        """Take up the run that is there, without changing it yet; None where nothing is.

        The next `begin` cuts it back to its checkpoint and goes on from there.

        Raises:
            BusyError: Somebody writes to it, or this collector has a run already.
            FormatError: What is there is no run, or damaged.
            MismatchError: It has no checkpoint to go on from.
        """
        with self._lock:
            if self.is_closed or self._writer.store is not None:
                raise BusyError(f"the collector of {self.place} has a run; make a new one")
            try:
                store = self._place.open()
            except MissingError:
                return None
            try:
                self._found = find_run(store)
                if self._found is not None and self._found.checkpoint is not None:
                    self._loaders.expect(self._found.checkpoint.loaders)
            except BaseException:
                store.close()
                raise
            self._writer.store = store
            return self._found

    def begin(
        self,
        sample: PyTree,
        *,
        declared: int | None,
        settings: Mapping[str, Json] | None = None,
        identity: Mapping[str, Json] | None = None,
        is_alone: bool = False,
    ) -> Session:
        """Begin a session of new chains whose samples look like this one, or go on with old ones.

        Args:
            sample: Arrays or shapes, of one chain.
            declared: Draws that each chain may keep; None for any number.
            settings: Kept with the run, if this begins it.
            identity: Likewise.
            is_alone: Whether the session must have the run for itself.

        Raises:
            BusyError: The collector is closed, or its writer failed.
            MismatchError: The run has samples of another structure.
            ExistsError: Something is at the collector's place already.
        """
        with self._lock:
            if self.is_closed or self.error is not None:
                reason = "is closed" if self.is_closed else f"failed: {self.error!r}"
                raise BusyError(f"the collector of {self.place} {reason}; make a new one")
            if self._is_taken or (is_alone and self._layout is not None):
                raise BusyError(
                    f"the collector of {self.place} holds the run of another call; a collector "
                    "takes one scan, so make a new one"
                )
            layout = layout_of(sample, group=self._options.group, dims=self._options.dims)
            told = {
                "settings": {**self._options.settings, **(settings or {})},
                "identity": identity or {},
            }
            if self._layout is not None:
                check_same_leaves(layout, self._layout, place=self.place)
            elif self._found is None:
                self._open(layout, told, declared)
            else:
                self._go_on(self._found, layout, told, declared)
            self._treedef = jax.tree.structure(sample)
            self._is_taken = is_alone
            if self._restored is not None:
                return self._restored
            if self._ended:
                # What ended stays, whatever becomes of the chains that begin now.
                self.put_checkpoint(join_parts((), ended=self._ended))
            session = Session(self, declared=declared)
            self._sessions.add(session)
            return session

    def show(self, meter: Meter) -> None:
        """Show progress on this meter until the last session finishes."""
        self._writer.show(meter)

    def flush(self) -> None:
        """Wait until what arrived is written and, in whole chunks, committed.

        Raises:
            BaseException: What stopped the writer, as itself.
        """
        self._writer.drain()
        if self._sessions:
            self._writer.commit()

    def finish_run(self, sessions: Sequence[Session]) -> Run:
        """Write the last draws of sessions; the run as it then is at rest."""
        self._writer.drain()
        chains = chains_of(sessions)
        with self._lock:
            if not self._sessions.issuperset(sessions):
                raise BusyError(f"these chains of {self.place} are finished already")
            self._sessions.difference_update(sessions)
            self._restored = None
            for session in sessions:
                self._ended.update({chain: session.counts[chain] for chain in session.chains})
            is_last, n_chains = not self._sessions, self._numbers.n_chains
        run = self._writer.finish(chains, is_last=is_last, treedef=self._treedef, n_chains=n_chains)
        self._on_finish(run, chains)
        return run

    def abandon(self, error: BaseException) -> None:
        """End a run that failed: what came stays readable, marked as interrupted.

        Never raises; where the store itself failed, its last commit stands.
        """
        self._writer.fail(error)
        with contextlib.suppress(BaseException):
            self.close()

    def close(self) -> None:
        """End the run: write what arrived, commit it, let go of the store. May be called again.

        Raises:
            BaseException: What stopped the writer, if no one was told before.
        """
        with self._lock:
            is_first = self._closing is None
            if self._closing is None:
                sessions, self._sessions = self._sessions, set()
                for session in sessions:
                    channel.release(session)
                unfinished = chains_of(sessions) if sessions else None
                n_chains = self._numbers.n_chains
                self._closing = self._writer.end(unfinished, n_chains=n_chains)
        # Waiting for it again does no harm, should Ctrl-C have ended an earlier wait.
        self._closing.exception()
        self._writer.stop()
        if is_first and self.error is not None:
            raise self.error

    def _open(
        self, layout: Layout, told: Mapping[str, Mapping[str, Json]], n_draws: int | None
    ) -> None:
        """Begin a run in a new store, or in one that a kill left without a run."""
        check_coords(layout, self._options.coords, place=self.place)
        is_new = self._writer.store is None
        store = self._writer.store = self._writer.store or self._place.create()
        close_at_exit(self)
        if is_new:
            check_free(store, layout, place=self.place)
        self._writer.begin(begin_run(store, layout, self._options, told=told, n_draws=n_draws))
        self._layout = layout

    def _go_on(
        self,
        found: Found,
        layout: Layout,
        told: Mapping[str, Mapping[str, Json]],
        n_draws: int | None,
    ) -> None:
        """Go on with a run that was taken up: cut it back to its checkpoint."""
        check_same_leaves(layout, found.layout, place=self.place)
        self._loaders.check()
        close_at_exit(self)
        point = found.checkpoint
        recorder = cut_back(
            found, told=told, chunk_draws=self._options.chunk_draws, n_draws=n_draws
        )
        self._writer.begin(recorder, draws=sum(point.draws) if point else 0)
        self._layout, self._found = found.layout, None
        if point is None:
            return
        self._numbers.restore(len(point.draws))
        self._ended = ended_of(point)
        if point.senders:
            self._restored = Session(self, declared=n_draws)
            self._restored.restore(point)
            self._sessions.add(self._restored)

    def status(self) -> Status:
        """How far saving is."""
        return self._writer.status(self._numbers.n_chains)


def chains_of(sessions: Iterable[Session]) -> tuple[int, ...]:
    """Numbers of all their chains, in order."""
    return tuple(sorted(chain for session in sessions for chain in session.chains))
