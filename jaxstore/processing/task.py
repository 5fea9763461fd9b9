"""What every worker of a session has: the recipe, its programs, and how many units fit in memory.

Owned here: from a task to jobs on this process's threads; and what a crew of processes is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxstore.processing.cut import Cut
from jaxstore.processing.engines import run_on_threads, run_serially
from jaxstore.processing.job import Care, Job
from jaxstore.processing.recipe import Recipe
from jaxstore.stores.results import ResultGroup, ResultPlace

_AHEAD = 2  # units beside those that are computed: one being read, one being written
_REMOTE_AHEAD = 14  # where each read waits for a network; 16 at a time hid 30 ms in measurements


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one process in a session."""

    recipe: Recipe
    cut: Cut
    care: Care

    def run(
        self,
        group: ResultGroup,
        units: Sequence[int],
        *,
        workers: int | None,
        watch: Callable[[], None],
        report: Callable[[int], None],
    ) -> None:
        """Run units here.

        Args:
            group: Where they are written, by this process alone of all that write there.
            units: Numbers.
            workers: Units computed at once; None runs one after the other in this thread.
            watch: Is called about once a second.
            report: Is told of the items of each unit that is written.
        """
        job = Job(self.cut.work, group, self.care, report)
        if workers is None:
            run_serially(job, units, watch)
            return
        n_inflight = self.cut.plan.n_inflight(wanted_inflight(self.recipe, workers))
        run_on_threads(job, units, watch, n_workers=workers, n_inflight=n_inflight)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a crew has to do in a session."""

    task: Task
    place: ResultPlace
    name: str  # of the result
    owner: ResultGroup | None  # the result, in the process that owns it; None in the others
    todo: Sequence[int]  # numbers of units
    report: Callable[[int], None]  # is told of items that are done, in the owner's process


def wanted_inflight(recipe: Recipe, workers: int | None) -> int:
    """Units in memory at once that are of use."""
    if workers is None:
        return 1
    return workers + (_REMOTE_AHEAD if recipe.sources.is_remote else _AHEAD)
