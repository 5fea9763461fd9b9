"""Who runs which unit when, in one process: in the calling thread, or on several threads.

Owned here: the threads of processing, and how they end. MPI ranks are `engines_mpi`, the workers of
a dask cluster `engines_dask`; each of them runs its share by these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

from jaxstore.errors import JaxstoreError
from jaxstore.interrupt import check_lost
from jaxstore.processing.job import Job

Watch = Callable[[], None]  # is called about once a second, and may raise to end the work

_PAUSE_S = 1.0


def run_serially(job: Job, units: Sequence[int], watch: Watch) -> None:
    """One unit after the other in this thread, where a debugger finds it."""
    with _marked(job):
        for unit in units:
            job.run(unit)
            watch()
            check_lost()


def run_on_threads(
    job: Job, units: Sequence[int], watch: Watch, *, n_workers: int, n_inflight: int
) -> None:
    """Several units at once: some are read and written while others are computed.

    Args:
        job: What is run.
        units: Numbers, dealt in this order.
        watch: Is called in this thread.
        n_workers: Units that are computed at once.
        n_inflight: Units in memory at once.

    Raises:
        Exception: The first that a unit raised. Units in flight end before it comes, and no others
            begin; what they wrote is marked.
    """
    shares = _Shares(job, units, threading.Semaphore(n_workers))
    with (
        _marked(job),
        ThreadPoolExecutor(n_inflight, thread_name_prefix="jaxstore-unit") as pool,
    ):
        try:
            pending = {pool.submit(shares.work) for _ in range(min(n_inflight, len(units)))}
            while pending:
                _, pending = wait(pending, _PAUSE_S, FIRST_EXCEPTION)
                shares.check()
                watch()
                check_lost()
        finally:
            shares.stop()


@contextmanager
def _marked(job: Job) -> Iterator[None]:
    """Mark what was written at the end, also where it is an error."""
    try:
        yield
    except BaseException:
        # Where marks cannot be written either, what went wrong first tells more.
        with suppress(JaxstoreError, OSError):
            job.flush()
        raise
    job.flush()


class _Shares:
    """Units, handed out one by one to threads that ask."""

    def __init__(self, job: Job, units: Sequence[int], turn: threading.Semaphore) -> None:
        self._job = job
        self._units = iter(units)
        self._turn = turn
        self._lock = threading.Lock()  # guards the iterator
        self._is_stopped = False
        self._error: BaseException | None = None  # the first; others may only follow from it

    def check(self) -> None:
        """Raise what a thread raised."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Hand out no more."""
        self._is_stopped = True
        self._job.stop()

    def work(self) -> None:
        """Run units until there are none."""
        while (unit := self._next()) is not None:
            try:
                self._job.run(unit, self._turn)
            except BaseException as error:
                with self._lock:
                    self._error = self._error or error
                self.stop()
                raise

    def _next(self) -> int | None:
        with self._lock:
            return None if self._is_stopped else next(self._units, None)
