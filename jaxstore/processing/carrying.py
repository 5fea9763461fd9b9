"""An order, carried out: found among the results there are, continued, or computed afresh.

Owned here: the course of one call, in each of the processes that take part. What the owner of a
result does in it is `session`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxstore.interrupt import listening
from jaxstore.processing.beside import beside, leaf_name
from jaxstore.processing.crew import Crew, crew_of
from jaxstore.processing.cut import Cut, cut_afresh, cut_again
from jaxstore.processing.finding import Matches, matches, next_name, stem_of
from jaxstore.processing.options import Options
from jaxstore.processing.plan import Plan, plan_of
from jaxstore.processing.progress import Bar
from jaxstore.processing.recipe import Order, Recipe, make_recipe
from jaxstore.processing.result import Result
from jaxstore.processing.same import check_same
from jaxstore.processing.session import Session, begin_again, begin_new, choose, finish, start
from jaxstore.processing.sourcing import is_place
from jaxstore.processing.task import Assignment, Task
from jaxstore.processing.units import Sizes
from jaxstore.stores.base import Json
from jaxstore.stores.results import ResultPlace
from jaxstore.stores.results_place import results_at


def carry_out(order: Order, target: Any, options: Options) -> Result:
    """The result of an order, found or computed."""
    crew = crew_of(options)
    with listening(), ExitStack() as stack:

        def understand() -> tuple[Recipe, ResultPlace]:
            recipe = stack.enter_context(closing(make_recipe(order)))
            place = _place_of(recipe, target, options)
            crew.check(recipe, place)
            return recipe, place

        recipe, place = crew.each(understand)
        name = _Run(recipe, place, crew, options).to_the_end()

    def again() -> Result:
        """The same, with what failed tried again."""
        result = Result(place, name, n_items=recipe.shown_items)
        return carry_out(order, target, replace(options, override=False, resume=result))

    return Result(place, name, n_items=recipe.shown_items, retry=again)


def matching(order: Order, target: Any, options: Options) -> tuple[ResultPlace, Matches]:
    """The results that are the same computation, and where they lie; nothing is written."""
    with closing(make_recipe(order)) as recipe:
        place = _place_of(recipe, target, options)
        return place, matches(place, recipe.computation, _stem(recipe))


def foresee(order: Order, target: Any, options: Options) -> Plan:
    """What `carry_out` would do; nothing is written."""
    with closing(make_recipe(order)) as recipe:
        place = _place_of(recipe, target, options)
        found = matches(place, recipe.computation, _stem(recipe))
        cut = _cut(recipe, place, _chosen(found, options), options)
        return plan_of(recipe, cut, crew_of(options), place.location, found)


def _place_of(recipe: Recipe, target: Any, options: Options) -> ResultPlace:
    """Where the result of a recipe goes."""
    if isinstance(options.resume, Result):
        return options.resume.place
    settings: dict[str, Any] = {
        "compression": options.compression,
        "durable": options.durable,
    }
    if target is not None:
        return results_at(target, **settings)
    first = jax.tree.leaves(recipe.order.source, is_leaf=is_place)[0]
    found = beside(first, recipe.sources.leaves[0])
    return results_at(found.where, group=found.group, **settings)


def _stem(recipe: Recipe) -> str:
    return stem_of(leaf_name(recipe.sources.leaves[0]), recipe.order.process_name)


def _chosen(found: Matches, options: Options) -> str | None:
    """The result that is meant, None for a new one."""
    if isinstance(options.resume, Result):
        return options.resume.name
    return choose(found, override=options.override, resume=options.resume)


def _cut(recipe: Recipe, place: ResultPlace, name: str | None, options: Options) -> Cut:
    """The sizes of a result that is there, or those that fit."""
    if name is None:
        return cut_afresh(recipe, options)
    with closing(Result(place, name)) as result:
        sizes = result.manifest.sizes
    n_items = max(sizes.units.n_items, recipe.selection.n_items)
    return cut_again(recipe, options, replace(sizes, units=replace(sizes.units, n_items=n_items)))


@dataclass(slots=True)
class _Run:
    """One call, in one of the processes of a crew."""

    recipe: Recipe
    place: ResultPlace
    crew: Crew
    options: Options
    cut: Cut | None = None  # in the owner's process
    session: Session | None = None  # likewise

    def to_the_end(self) -> str:
        """Name of the result, when it is computed as far as it goes."""
        try:
            told = self.crew.agree(self._begin)
            if told["todo"] is not None:
                self._work(told)
                self.crew.agree(self._end)
            return str(told["name"])
        finally:
            if self.session is not None:
                self.session.owner.close()

    def _begin(self) -> Json:
        """Find or make the result; what the others need to know of it."""
        recipe, place, options = self.recipe, self.place, self.options
        stem = _stem(recipe)
        found = matches(place, recipe.computation, stem)
        name = _chosen(found, options)
        if name is not None and not isinstance(options.resume, Result):
            with closing(Result(place, name, n_items=recipe.shown_items)) as result:
                if result.state == "complete":
                    return {"name": name, "todo": None}
            if not options.resume:  # it has fewer items than are asked for
                name = None
        self.cut = _cut(recipe, place, name, options)
        if name is None:
            self.session = begin_new(recipe, place, next_name(found, stem), self.cut)
        else:
            self.session = begin_again(recipe, place, name)
        self.session = start(self.session, engine=self.crew.name, workers=self.crew.n_workers)
        return {
            "name": self.session.owner.name,
            "todo": list(self.session.todo),
            "sizes": self.session.manifest.sizes.to_json(),
            "computation": recipe.computation.to_json(),
        }

    def _work(self, told: Json) -> None:
        sizes = Sizes.from_json(told["sizes"])

        def prepare() -> Cut:
            check_same(told["computation"], self.recipe.computation)
            return self.cut or cut_again(self.recipe, self.options, sizes)

        task = Task(self.recipe, self.crew.each(prepare), self.options.care)
        owner = self.session.owner if self.session else None
        with closing(self._bar(sizes, told["todo"])) as bar:
            self.crew.work(
                Assignment(task, self.place, told["name"], owner, told["todo"], bar.step)
            )

    def _end(self) -> Json:
        assert self.session is not None
        self.recipe.check_sources()
        finish(self.session, self.recipe, self.place)
        # Before the others go on: they may open the result at once.
        self.session.owner.close()
        return None

    def _bar(self, sizes: Sizes, todo: Sequence[int]) -> Bar:
        units = sizes.units
        return Bar(
            is_shown=self.options.shows_progress and self.session is not None,
            name=self.recipe.order.process_name,
            total=units.n_items,
            done=units.n_items - units.n_items_of(todo),
        )
