"""A run on its way into a store: the thread that writes it, its queue and its progress bar.

Owned here: what happens on that thread. The order of writes is `recorder`'s; who may hand on draws,
and when a run begins and ends, is `recording`'s.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from typing import Any

from jaxstore.errors import BusyError
from jaxstore.saving.block import Block
from jaxstore.saving.checkpoint import Checkpoint
from jaxstore.saving.progress import Meter, Status
from jaxstore.saving.recorder import Recorder
from jaxstore.saving.run import Run
from jaxstore.saving.writer import Writer
from jaxstore.stores.base import Store


class RunWriter:
    """Writes blocks and checkpoints in the order in which they are put.

    Args:
        place: Of the run, for messages.
        queue_bytes: What may wait at most.
    """

    def __init__(self, place: str, *, queue_bytes: int) -> None:
        self._place = place
        self._writer = Writer(self._write, idle=self._beat, queue_bytes=queue_bytes, name=place)
        self._meter = Meter(is_shown=False)
        self._recorder: Recorder | None = None
        self.store: Store | None = None
        self.draws = 0  # taken from the program, all chains together

    @property
    def error(self) -> BaseException | None:
        """What stopped it, None while it works."""
        return self._writer.error

    @property
    def checkpoint_s(self) -> float:
        """Seconds that the last checkpoint took to write."""
        return self._recorder.checkpoint_s if self._recorder else 0.0

    def begin(self, recorder: Recorder, *, draws: int = 0) -> None:
        """Write by this recorder, which has so many draws already."""
        self._recorder, self.draws = recorder, draws
        self._writer.submit(self._beat)  # starts the thread, by which others see that we live

    def put(self, block: Block) -> None:
        """Queue a block; waits while the queue is full. Raises what stopped the writer."""
        self._writer.put(block, block.n_bytes)
        self.draws += block.n_draws * block.n_chains

    def put_checkpoint(self, point: Checkpoint) -> None:
        """Queue a checkpoint behind the draws that precede it. Raises what stopped the writer."""
        self._writer.put(point, point.n_bytes)

    def fail(self, error: BaseException) -> None:
        """Take no more; what is queued is still written."""
        self._writer.fail(error)

    def show(self, meter: Meter) -> None:
        """Show progress on this meter until the run ends."""
        self._meter = meter

    def commit(self) -> None:
        """Wait until all that was put is written, and in whole chunks committed."""
        self._writer.drain()
        self._writer.submit(lambda: self._opened()[0].commit("running")).result()

    def finish(self, chains: tuple[int, ...], *, is_last: bool, treedef: Any, n_chains: int) -> Run:
        """Write what waits of chains that ended; the run as it then is at rest.

        On the writer's thread, since other chains may still be written.
        """

        def act() -> Run:
            recorder, store = self._opened()
            recorder.finish(chains, state="complete" if is_last else "running")
            if is_last:
                self._meter.close(self.status(n_chains))
                store.seal()
            return Run(store.reader(), treedef=treedef)

        self._writer.drain()
        run: Run = self._writer.submit(act).result()
        if is_last:
            self._writer.stop()
        return run

    def end(self, unfinished: tuple[int, ...] | None, *, n_chains: int) -> Future[None]:
        """Commit what came of chains that never finished (None: there are none), and let go."""

        def act() -> None:
            try:
                if self._recorder is not None and self.store is not None:
                    self._interrupt(self._recorder, self.store, unfinished)
            finally:
                self._meter.close(self.status(n_chains))
                if self.store is not None:
                    self.store.close()

        return self._writer.submit(act)

    def drain(self) -> None:
        """Wait until everything queued was handled. Raises what stopped the writer."""
        self._writer.drain()

    def stop(self) -> None:
        """End the thread when everything queued was handled."""
        self._writer.stop()

    def status(self, n_chains: int) -> Status:
        """How far saving is."""
        recorder = self._recorder
        return Status(
            n_chains,
            self.draws,
            recorder.draws_committed if recorder else 0,
            recorder.bytes_written if recorder else 0,
            self._writer.waiting_bytes,
        )

    def _interrupt(
        self, recorder: Recorder, store: Store, unfinished: tuple[int, ...] | None
    ) -> None:
        if self._writer.is_dead:
            # The store raised. What it took before may count, if it takes a commit.
            with contextlib.suppress(Exception):
                recorder.commit("interrupted")
        elif unfinished is not None:
            recorder.finish(unfinished, state="interrupted")
            store.seal()

    def _opened(self) -> tuple[Recorder, Store]:
        if self._recorder is None or self.store is None:
            raise BusyError(f"the collector of {self._place} has no run; call init_save first")
        return self._recorder, self.store

    def _write(self, item: Any) -> None:
        recorder = self._opened()[0]
        if isinstance(item, Checkpoint):
            recorder.checkpoint(item)
        else:
            recorder.write(item)
        self._meter.show(self.status(recorder.n_chains))

    def _beat(self) -> None:
        if self._recorder is not None:
            self._recorder.beat()
