"""Who works on a result: this process, MPI ranks, or a dask cluster.

Owned here: the contract of a crew, the crew of one process, and which crew an engine is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax

from jaxstore.processing.options import Options
from jaxstore.processing.recipe import Recipe
from jaxstore.processing.task import Assignment
from jaxstore.stores.base import Json
from jaxstore.stores.results import ResultPlace
from jaxstore.topology import n_processors
from jaxstore.topology import place as place_among


class Crew(Protocol):
    """Processes that work on one result; each of them calls all methods."""

    @property
    def name(self) -> str:
        """Of the engine, for the manifest."""
        ...

    @property
    def n_workers(self) -> int:
        """Units computed at once, in all processes."""
        ...

    @property
    def workers(self) -> int | None:
        """Units computed at once in one process; None for all work in the calling thread."""
        ...

    def check(self, recipe: Recipe, place: ResultPlace) -> None:
        """Refuse sources and places that not all of them can reach.

        Raises:
            MismatchError: There is one.
        """
        ...

    def agree(self, action: Callable[[], Json]) -> Json:
        """What `action` gives, which only the owner of the result runs; an error is everybody's."""
        ...

    def each[T](self, action: Callable[[], T]) -> T:
        """What `action` gives here; every process runs it, and an error is everybody's."""
        ...

    def work(self, given: Assignment) -> None:
        """Run units, all of them when every process has come back from here."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """This process; its result's only writer."""

    workers: int | None  # threads that compute; None: the calling thread does all

    @property
    def name(self) -> str:
        """Of the engine."""
        return "serial" if self.workers is None else "threads"

    @property
    def n_workers(self) -> int:
        """Units computed at once."""
        return self.workers or 1

    def check(self, recipe: Recipe, place: ResultPlace) -> None:
        """Nobody else has to reach anything."""

    def agree(self, action: Callable[[], Json]) -> Json:
        """What `action` gives."""
        return action()

    def each[T](self, action: Callable[[], T]) -> T:
        """What `action` gives."""
        return action()

    def work(self, given: Assignment) -> None:
        """Run units."""
        owner = given.owner
        assert owner is not None
        given.task.run(
            owner, given.todo, workers=self.workers, watch=owner.keep, report=given.report
        )


def crew_of(options: Options) -> Crew:
    """The crew that an engine is.

    Raises:
        ValueError: There is no such engine.
        ImportError: It needs a package that is not there.
    """
    engine, workers = options.engine, options.workers
    n_processes = place_among().size
    if engine is None:
        engine = "threads" if n_processes == 1 else "mpi"
    if engine == "serial":
        return Alone(None)
    if engine == "threads":
        return Alone(workers or _default_workers())
    if engine == "mpi" and n_processes == 1:
        return Alone(workers or 1)
    if engine == "mpi":
        from jaxstore.processing.engines_mpi import Ranks

        return Ranks(workers or 1)
    if type(engine).__module__.partition(".")[0] == "distributed":
        from jaxstore.processing.engines_dask import Cluster

        return Cluster(engine, options)
    raise ValueError(
        f"engine is {engine!r}. Choose 'serial', 'threads', 'mpi', or give a distributed.Client."
    )


def _default_workers() -> int:
    is_cpu = jax.default_backend() == "cpu"
    return n_processors() if is_cpu else 2  # of which one waits for the device
