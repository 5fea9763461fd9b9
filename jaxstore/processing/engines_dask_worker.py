"""What a worker of dask does: it opens sources and result once in a session, and runs units.

Owned here: the desk of a worker's process at which a session's units are run, from the first unit
until the session is over, or for a while nothing came.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from distributed import get_worker

from jaxstore.errors import BusyError
from jaxstore.processing.cut import cut_again
from jaxstore.processing.options import Options
from jaxstore.processing.recipe import Order, make_recipe
from jaxstore.processing.same import check_same
from jaxstore.processing.task import Task
from jaxstore.processing.units import Sizes
from jaxstore.stores.base import Json
from jaxstore.stores.results_place import results_at

_IDLE_S = 60.0  # after which a worker lets go; a client that was killed says no goodbye
# Settings of JAX that change what is compiled, and functions that set them for a thread.
_SETTINGS = {
    "jax_enable_x64": "enable_x64",
    "jax_default_matmul_precision": "default_matmul_precision",
    "jax_numpy_dtype_promotion": "numpy_dtype_promotion",
    "jax_default_prng_impl": "default_prng_impl",
    "jax_threefry_partitionable": "threefry_partitionable",
}


@dataclass(frozen=True, slots=True)
class Ticket:
    """All that a worker has to know of a session."""

    session: str
    order: Order  # its sources are addresses
    options: Options
    sizes: Sizes
    computation: Json  # of the client
    jax: Mapping[str, Any]  # settings
    place: str  # of the result
    name: str


def settings_of_jax() -> dict[str, Any]:
    """Those of this thread that change what is compiled."""
    return {name: getattr(jax.config, name) for name in _SETTINGS}


def run_units(units: tuple[int, ...], *, ticket: bytes, session: str) -> None:
    """Compute, write and mark units; a task of dask, which may be run more than once.

    Raises:
        BusyError: The session is over.
        Exception: What a unit raised.
    """
    with _desks.seat(session, ticket) as desk:
        desk.run(units)


async def end_session(session: str) -> None:
    """Close what is open for a session, after the units that are computed just now."""
    # In a thread, so that meanwhile the worker hears and answers.
    await asyncio.to_thread(_desks.end, session)


class _Desk:
    """Sources, programs and the result of one session, open."""

    def __init__(self, ticket: Ticket, n_threads: int) -> None:
        self.n_users = 0
        self.idle: threading.Timer | None = None  # runs while there are no users
        self._settings = ticket.jax
        options = ticket.options
        with ExitStack() as stack:
            with self._as_client():
                recipe = stack.enter_context(closing(make_recipe(ticket.order)))
                check_same(ticket.computation, recipe.computation)
                cut = cut_again(recipe, options, ticket.sizes)
            place = results_at(
                ticket.place, compression=options.compression, durable=options.durable
            )
            writer = f"dask-{ticket.session}-{uuid.uuid4().hex[:8]}"
            member = place.open(ticket.name, role="member", writer=writer)
            self._member = stack.enter_context(closing(member))
            self._task = Task(recipe, cut, options.care)
            n_inflight = cut.plan.n_inflight(options.workers or n_threads)
            self._turns = threading.Semaphore(n_inflight)  # so that memory is bounded
            self._open = stack.pop_all()

    def run(self, units: tuple[int, ...]) -> None:
        with self._turns, self._as_client():
            watch = self._member.keep
            self._task.run(self._member, units, workers=None, watch=watch, report=lambda n: None)

    def close(self) -> None:
        self._open.close()

    @contextmanager
    def _as_client(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, value in self._settings.items():
                stack.enter_context(getattr(jax, _SETTINGS[name])(value))
            yield


class _Desks:
    """The desks of this process, by session."""

    def __init__(self) -> None:
        self._open: dict[str, _Desk] = {}
        self._over: set[str] = set()
        self._changed = threading.Condition()  # guards both, and who uses a desk

    @contextmanager
    def seat(self, session: str, ticket: bytes) -> Iterator[_Desk]:
        """The desk of a session, which stays open meanwhile."""
        with self._changed:
            if session in self._over:
                raise BusyError(f"session {session} is over. Call `process` again.")
            desk = self._open.get(session)
            if desk is None:
                desk = _Desk(pickle.loads(ticket), get_worker().state.nthreads)
                self._open[session] = desk
            desk.n_users += 1
            if desk.idle is not None:
                desk.idle.cancel()
        try:
            yield desk
        finally:
            with self._changed:
                desk.n_users -= 1
                self._changed.notify_all()
                if not desk.n_users:
                    desk.idle = threading.Timer(_IDLE_S, self._end_idle, (session, desk))
                    desk.idle.daemon = True
                    desk.idle.start()

    def end(self, session: str) -> None:
        """Close the desk of a session, for good."""
        with self._changed:
            self._over.add(session)
            desk = self._open.pop(session, None)
            if desk is not None:
                self._changed.wait_for(lambda: not desk.n_users)
                self._close(desk)

    def _end_idle(self, session: str, desk: _Desk) -> None:
        """Close a desk; units that come after all get another."""
        with self._changed:
            if self._open.get(session) is desk and not desk.n_users:
                del self._open[session]
                self._close(desk)

    def _close(self, desk: _Desk) -> None:
        if desk.idle is not None:
            desk.idle.cancel()
        desk.close()


_desks = _Desks()
