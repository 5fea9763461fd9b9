"""The workers of a dask cluster work on one result, which the client's process owns.

Owned here: what the client sends, what it waits for, and how it ends. Sources and results travel as
addresses, never as open stores, which would take credentials along; what a worker does is
`engines_dask_worker`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import jax
from distributed import as_completed

from jaxstore.errors import MismatchError
from jaxstore.processing.beside import address_of
from jaxstore.processing.engines_dask_worker import Ticket, end_session, run_units, settings_of_jax
from jaxstore.processing.engines_keeper import Keeper
from jaxstore.processing.options import Options
from jaxstore.processing.recipe import Order, Recipe
from jaxstore.processing.sourcing import is_place
from jaxstore.processing.task import Assignment
from jaxstore.stores.base import Json
from jaxstore.stores.results import ResultPlace

_MOST_TASKS = 4096  # of one call; dask's scheduler takes about a millisecond for each

_log = logging.getLogger("jaxstore")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers of a client."""

    client: Any  # distributed.Client
    options: Options

    @property
    def name(self) -> str:
        """Of the engine."""
        return "dask"

    @property
    def workers(self) -> int | None:
        """Units computed at once in one process."""
        return self.options.workers or max(self._threads(), default=1)

    @property
    def n_workers(self) -> int:
        """Units computed at once in all processes."""
        return sum(min(n, self.options.workers or n) for n in self._threads())

    def check(self, recipe: Recipe, place: ResultPlace) -> None:
        """Refuse what has no address, and a client that only coroutines can wait for."""
        if self.client.asynchronous:
            raise MismatchError(
                "the client of dask is asynchronous. Make one with asynchronous=False."
            )
        if place.address is None:
            raise MismatchError(
                f"the result would go to {place.location}, which workers of dask cannot open by "
                "name. Give a path or URL as target."
            )
        _addressed(recipe.order)

    def agree(self, action: Callable[[], Json]) -> Json:
        """What `action` gives here."""
        return action()

    def each[T](self, action: Callable[[], T]) -> T:
        """What `action` gives here."""
        return action()

    def work(self, given: Assignment) -> None:
        """Have units run by workers."""
        owner, session = given.owner, uuid.uuid4().hex[:8]
        assert owner is not None
        ticket = cloudpickle.dumps(self._ticket(given, session))
        owner.share()
        try:
            with Keeper(owner) as keeper:
                self._run(ticket, given, session, keeper)
        finally:
            self._end(session)
            owner.join(given.task.cut.work.regions)

    def _threads(self) -> Sequence[int]:
        return list(self.client.nthreads().values())

    def _ticket(self, given: Assignment, session: str) -> Ticket:
        recipe = given.task.recipe
        return Ticket(
            session=session,
            order=_addressed(recipe.order),
            # What is left of the options is of the client's process.
            options=replace(self.options, engine="serial", override=False, resume=True),
            sizes=given.task.cut.sizes,
            computation=recipe.computation.to_json(),
            jax=settings_of_jax(),
            place=str(given.place.address),
            name=given.name,
        )

    def _run(self, ticket: bytes, given: Assignment, session: str, keeper: Keeper) -> None:
        task, todo = given.task, given.todo
        name = f"{task.recipe.order.process_name}-{session}"
        n_units = -(-len(todo) // _MOST_TASKS)  # of a task
        parts = [tuple(todo[at : at + n_units]) for at in range(0, len(todo), n_units)]
        # A task, and not scattered: what is scattered is lost with the worker that has it.
        sent = self.client.submit(bytes, ticket, key=f"{name}-ticket", pure=False)
        keys = [f"{name}-{part[0]}" for part in parts]
        futures = self.client.map(
            run_units, parts, ticket=sent, session=session, key=keys, pure=False, batch_size=1000
        )
        units = dict(zip(keys, parts, strict=True))
        try:
            for future in as_completed(futures):  # type: ignore[no-untyped-call]
                future.result()
                given.report(task.cut.sizes.units.n_items_of(units[future.key]))
                keeper.check()
        finally:
            self.client.cancel([*futures, sent])

    def _end(self, session: str) -> None:
        """Have all workers close the result; a unit that is computed just now is waited for."""
        try:
            self.client.run(end_session, session, on_error="ignore")
        except Exception as error:  # a cluster that is gone; what it wrote is joined all the same
            _log.warning("the workers of dask could not be told that all is over: %s", error)


def _addressed(order: Order) -> Order:
    """An order that another process can carry out.

    Raises:
        MismatchError: One of its sources cannot be opened there.
    """
    return replace(order, source=jax.tree.map(address_of, order.source, is_leaf=is_place))
