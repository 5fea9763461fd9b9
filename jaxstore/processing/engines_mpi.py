"""Several processes that a launcher started work on one result: MPI ranks, or those of one JAX job.

Owned here: what each of them does of the work, and that all of them end together.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from jaxstore.errors import MismatchError
from jaxstore.processing.engines_keeper import Keeper
from jaxstore.processing.recipe import Recipe
from jaxstore.processing.task import Assignment
from jaxstore.processing.units import deal
from jaxstore.stores.base import Json
from jaxstore.stores.results import ResultPlace
from jaxstore.topology import Watch, from_root, together
from jaxstore.topology import place as place_among


@dataclass(frozen=True, slots=True)
class Ranks:
    """All ranks; the first owns the result, and each, it too, is a member that writes."""

    workers: int  # units computed at once on each

    @property
    def name(self) -> str:
        """Of the engine."""
        return "mpi"

    @property
    def n_workers(self) -> int:
        """Units computed at once on all ranks."""
        return self.workers * place_among().size

    def check(self, recipe: Recipe, place: ResultPlace) -> None:
        """Refuse a place that the other ranks cannot see."""
        if place.location.startswith("memory"):
            raise MismatchError(
                f"the result would go to {place.location!r}, which each of {place_among().size} "
                "ranks has for itself. Give a path or URL as target, or engine='threads' for a "
                "result of its own in each rank."
            )

    def agree(self, action: Callable[[], Json]) -> Json:
        """What `action` gives on the first rank."""
        return from_root(action)

    def each[T](self, action: Callable[[], T]) -> T:
        """What `action` gives on this rank."""
        found: list[T] = []
        together(lambda _: found.append(action()))
        return found[0]

    def work(self, given: Assignment) -> None:
        """Run this rank's share of the units; the others run theirs."""
        where, owner = place_among(), given.owner
        share = deal(given.todo, where.rank, where.size)

        def open_result() -> Json:
            assert owner is not None
            owner.share()
            return uuid.uuid4().hex[:8]

        def join() -> None:
            assert owner is not None
            owner.join(given.task.cut.work.regions)

        def run(watch: Watch) -> None:
            def look() -> None:
                watch()
                keeper.check()

            if not share:
                return
            # No two sessions share a name: a rank of the one before may still be ending.
            writer = f"rank-{where.rank}-{session}"
            with closing(given.place.open(given.name, role="member", writer=writer)) as member:
                told = _for_all(given, share)
                given.task.run(member, share, workers=self.workers, watch=look, report=told)

        session = from_root(open_result)
        try:
            with Keeper(owner) as keeper:
                together(run)
        finally:
            from_root(join)  # what is done counts, also where another rank failed


def _for_all(given: Assignment, share: Sequence[int]) -> Callable[[int], None]:
    """Tell of the items of all ranks by those of one, which has as many units as any."""
    units = given.task.cut.sizes.units
    n_own, n_all = max(1, units.n_items_of(share)), units.n_items_of(given.todo)
    lock = threading.Lock()  # guards the number of items
    n_done = 0

    def step(n_items: int) -> None:
        nonlocal n_done
        with lock:
            before = n_done * n_all // n_own
            n_done += n_items
            given.report(n_done * n_all // n_own - before)

    return step
