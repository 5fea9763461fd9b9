"""A run being recorded: the store, the writer thread and the sessions of a built-in collector.

Owned here: when a run begins, ends, and who may write to it. How it is written is `recorder`'s;
`collectors` are the public face of this.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from weakref import WeakSet

import jax
from jaxtyping import PyTree

from jaxstore.errors import BusyError, ExistsError, MismatchError
from jaxstore.saving import channel
from jaxstore.saving.block import Block
from jaxstore.saving.layout import (
    MANIFEST,
    Layout,
    check_coords,
    check_same_leaves,
    layout_of,
    manifest_of,
)
from jaxstore.saving.progress import Meter, Status
from jaxstore.saving.recorder import Recorder, write_coordinates
from jaxstore.saving.run import Run
from jaxstore.saving.session import Session
from jaxstore.saving.writer import QUEUE_BYTES, Writer
from jaxstore.stores.base import Json, Store


@dataclass(frozen=True, slots=True)
class Options:
    """How a collector lays out its run."""

    group: str | None = "samples"
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Json] = field(default_factory=dict)
    chunk_draws: int | None = None
    queue_bytes: int = QUEUE_BYTES

    def __post_init__(self) -> None:
        for name in ("chunk_draws", "queue_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        if self.group is not None and not (self.group.isidentifier() and self.group[0] != "_"):
            raise ValueError(f"group must be a plain name such as 'posterior', got {self.group!r}")


_open_recordings: WeakSet[Recording] = WeakSet()


def _close_all() -> None:
    """Commit what came of runs that nobody ended before the interpreter does."""
    for recording in list(_open_recordings):
        with contextlib.suppress(BaseException):
            recording.close()


class Recording:
    """Writes one run into one store; the sink of its sessions.

    Args:
        create_store: Makes the store, when the first session begins.
        place: Where that is, for messages.
        on_finish: Called with the run and the chains that finished.
    """

    def __init__(
        self,
        create_store: Callable[[], Store],
        place: str,
        options: Options,
        on_finish: Callable[[Run, tuple[int, ...]], None] = lambda run, chains: None,
    ) -> None:
        self.place = place
        self._create_store = create_store
        self._options = options
        self._on_finish = on_finish
        self._writer = Writer(self._write, queue_bytes=options.queue_bytes, name=place)
        self._meter = Meter(is_shown=False)
        self._store: Store | None = None
        self._recorder: Recorder | None = None
        self._layout: Layout | None = None
        self._treedef: Any = None
        self._sessions: set[Session] = set()  # begun and not finished
        self._claimed: set[int] = set()
        self._n_chains = 0
        self._draws = 0
        self._is_taken = False  # by a session that must have it for itself
        self._ended: Future[None] | None = None  # when closed
        self._lock = threading.RLock()  # guards all of the above; the writer has its own

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more sessions."""
        return self._ended is not None

    @property
    def error(self) -> BaseException | None:
        """What stopped the writer, None while it works."""
        return self._writer.error

    def allocate(self, n_chains: int) -> int:
        """Number that many new chains; returns the first number."""
        with self._lock:
            first = self._n_chains
            self._n_chains += n_chains
            self._claimed |= set(range(first, self._n_chains))
            return first

    def claim(self, chain: int) -> None:
        """Take a chain number that the caller named; raises if it is taken."""
        with self._lock:
            if chain in self._claimed:
                raise MismatchError(
                    f"chain {chain} of {self.place} has draws of another program. Give init_save "
                    "chain numbers that are all different, or none."
                )
            self._claimed.add(chain)
            self._n_chains = max(self._n_chains, chain + 1)

    def put(self, block: Block) -> None:
        """Queue a block; waits while the queue is full. Raises what stopped the writer."""
        self._writer.put(block, block.n_bytes)
        self._draws += block.n_draws * block.n_chains

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

    def begin(
        self,
        sample: PyTree,
        *,
        declared: int | None,
        settings: Mapping[str, Json] | None = None,
        is_alone: bool = False,
    ) -> Session:
        """Begin a session of new chains whose samples look like this one.

        Args:
            sample: Arrays or shapes, of one chain.
            declared: Draws that each chain may keep; None for any number.
            settings: Kept with the run, if this begins it.
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
            self._is_taken = is_alone
            layout = layout_of(sample, group=self._options.group, dims=self._options.dims)
            if self._layout is None:
                self._open(layout, {**self._options.settings, **(settings or {})}, declared)
                self._treedef = jax.tree.structure(sample)
            elif layout != self._layout:
                check_same_leaves(layout, self._layout, place=self.place)
            session = Session(self, declared=declared)
            self._sessions.add(session)
            return session

    def show(self, meter: Meter) -> None:
        """Show progress on this meter until the last session finishes."""
        with self._lock:
            self._meter = meter

    def flush(self) -> None:
        """Wait until what arrived is written and, in whole chunks, committed.

        Raises:
            BaseException: What stopped the writer, as itself.
        """
        self._writer.drain()
        if self._sessions:
            self._writer.submit(partial(self._opened()[0].commit, "running")).result()

    def finish_run(self, sessions: Sequence[Session]) -> Run:
        """Write the last draws of sessions; the run as it then is at rest."""
        self._writer.drain()
        chains = chains_of(sessions)
        with self._lock:
            if not self._sessions.issuperset(sessions):
                raise BusyError(f"these chains of {self.place} are finished already")
            self._sessions.difference_update(sessions)
            is_last = not self._sessions
        # On the writer's thread, since other sessions may still be writing.
        run: Run = self._writer.submit(partial(self._finish, chains, is_last=is_last)).result()
        self._on_finish(run, chains)
        if is_last:
            self._writer.stop()
        return run

    def _finish(self, chains: tuple[int, ...], *, is_last: bool) -> Run:
        recorder, store = self._opened()
        recorder.finish(chains, state="complete" if is_last else "running")
        if is_last:
            self._meter.close(self.status())
            store.seal()
        return Run(store.reader(), treedef=self._treedef)

    def _opened(self) -> tuple[Recorder, Store]:
        if self._recorder is None or self._store is None:
            raise BusyError(f"the collector of {self.place} has no run; call init_save first")
        return self._recorder, self._store

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
            is_first = self._ended is None
            if self._ended is None:
                self._ended = self._writer.submit(self._end)
        # Waiting for it again does no harm, should Ctrl-C have ended an earlier wait.
        self._ended.exception()
        self._writer.stop()
        if is_first and self.error is not None:
            raise self.error

    def _end(self) -> None:
        """Commit what came of sessions that never finished, and let go of the store."""
        sessions, self._sessions = self._sessions, set()
        for session in sessions:
            channel.release(session)
        recorder, store = self._recorder, self._store
        if recorder is None or store is None:
            return
        try:
            if self._writer.is_dead:
                # The store raised. What it took before may count, if it still takes a commit.
                with contextlib.suppress(Exception):
                    recorder.commit("interrupted")
            elif sessions:
                recorder.finish(chains_of(sessions), state="interrupted")
                store.seal()
        finally:
            self._meter.close(self.status())
            store.close()

    def _open(self, layout: Layout, settings: Mapping[str, Json], n_draws: int | None) -> None:
        check_coords(layout, self._options.coords, place=self.place)
        store = self._create_store()
        _open_recordings.add(self)
        # Exit handlers run in reverse: after this, that of the library that the store uses.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        taken = [n for n in store.names() if n.split("/")[0] in layout.groups]
        if store.attrs().get(MANIFEST) or taken:
            raise ExistsError(
                f"{self.place} already holds {taken or 'a run'}, and nothing there "
                "is overwritten. Save to another place or group, or look at it with "
                "jaxstore.open_run."
            )
        created_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = manifest_of(layout, settings=settings, created_at=created_at)
        store.set_attrs({MANIFEST: manifest})
        write_coordinates(store, layout, self._options.coords)
        self._store, self._layout = store, layout
        self._recorder = Recorder(
            store, layout, chunk_draws=self._options.chunk_draws, n_draws=n_draws
        )
        self._recorder.commit("running")

    def _write(self, block: Any) -> None:
        self._opened()[0].write(block)
        self._meter.show(self.status())

    def status(self) -> Status:
        """How far saving is."""
        recorder = self._recorder
        return Status(
            self._n_chains,
            self._draws,
            recorder.draws_committed if recorder else 0,
            recorder.bytes_written if recorder else 0,
            self._writer.waiting_bytes,
        )


def chains_of(sessions: Iterable[Session]) -> tuple[int, ...]:
    """Numbers of all their chains, in order."""
    return tuple(sorted(chain for session in sessions for chain in session.chains))
