"""One call of a process, from the results that are there to one that is complete.

Owned here: which result an order continues or begins, what of it is to do, and its end. Only the
owner of a result comes here; who computes the units is `crew`.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxstore.errors import ExistsError, MismatchError
from jaxstore.processing.cut import Cut
from jaxstore.processing.finding import Matches, following
from jaxstore.processing.manifest import Manifest, fit, versions
from jaxstore.processing.outputs import (
    ITEM,
    PARAMS,
    errors_spec,
    item_spec,
    partial_specs,
    whole_spec,
)
from jaxstore.processing.recipe import Recipe
from jaxstore.processing.reduce import combine_all, state_of
from jaxstore.processing.result import Result
from jaxstore.processing.same import differences
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.results import DONE, TODO, Marks, ResultGroup, ResultPlace

_log = logging.getLogger("jaxstore")
_MOST_NAMES = 200  # that are tried, where others took those before


@dataclass(frozen=True, slots=True)
class Session:
    """A result that its owner works on."""

    owner: ResultGroup
    manifest: Manifest
    todo: tuple[int, ...]  # units


def choose(found: Matches, *, override: bool, resume: bool) -> str | None:
    """The result that an order means, None for a new one.

    Of several complete ones the newest; else, if it may be continued, the newest partial one.
    """
    if override:
        return None
    if found.complete:
        return found.complete[-1]
    for group, why in found.others:
        _log.info("%s is another computation: %s", group, why)
    return found.partial[-1] if resume and found.partial else None


def begin_new(recipe: Recipe, place: ResultPlace, name: str, cut: Cut) -> Session:
    """Make a new result under a name, or where that is taken under one that follows."""
    manifest = Manifest(
        state="partial",
        computation=recipe.computation,
        sizes=cut.sizes,
        channels=recipe.channels,
        outputs=recipe.outputs,
        states=cut.states,
        settings=recipe.settings,
        attrs=dict(recipe.order.attrs),
        versions=versions(),
        sessions=(),
    )
    for left in reversed(range(_MOST_NAMES)):
        try:
            owner = place.create(
                name,
                manifest=manifest.to_json(),
                specs=_specs(recipe, cut),
                n_units=cut.sizes.units.n_units,
            )
            break
        except ExistsError:  # by another process, or not by jaxstore
            if not left:
                raise
            name = following(name)
    _write_params(owner, recipe)
    return Session(owner, manifest, tuple(range(cut.sizes.units.n_units)))


def begin_again(recipe: Recipe, place: ResultPlace, name: str) -> Session:
    """Take up a result where it was left; chunks that are marked and damaged are to do again.

    Raises:
        MismatchError: It is another computation.
        BusyError: Another process works on it.
    """
    with closing(place.open(name)) as found:  # an owner already changes what is refused
        _check_same(found, recipe)
    owner = place.open(name, role="owner")
    try:
        manifest = Manifest.from_json(owner.manifest(), location=owner.location)
        _write_params(owner, recipe)  # a kill may have come before they were written
        owner.join(manifest.regions)
        marks = _sound(owner, manifest)
        if (marks != DONE).any():
            manifest = replace(manifest, state="partial")
        if recipe.selection.n_items > manifest.units.n_items:
            manifest = grow(owner, manifest, marks, recipe.selection.n_items)
            marks = fit(owner.marks(), manifest.units.n_units)
        # Of more items than are asked for, the others stay as they are.
        wanted = replace(manifest.units, n_items=recipe.selection.n_items).n_units
        todo = np.flatnonzero(marks[:wanted] != DONE).tolist()
        return Session(owner, manifest, tuple(todo))
    except BaseException:
        owner.close()
        raise


def start(session: Session, *, engine: str, workers: int) -> Session:
    """Note in the result who begins to work on it."""
    begun = session.manifest.begun(engine=engine, workers=workers, todo=len(session.todo))
    session.owner.set_manifest(begun.to_json())
    return replace(session, manifest=begun)


def finish(session: Session, recipe: Recipe, place: ResultPlace) -> None:
    """Reduce what is to be reduced, and note in the result that it is complete, if it is."""
    owner, manifest = session.owner, session.manifest
    is_done = bool((fit(owner.marks(), manifest.units.n_units) == DONE).all())
    if is_done and recipe.reduction is not None:
        _reduce(owner, manifest, recipe)
    describe = recipe.order.hooks.metadata
    if is_done and describe is not None:
        with closing(Result(place, owner.name)) as result:
            manifest = replace(manifest, attrs={**manifest.attrs, **describe(result)})
    owner.set_manifest(manifest.ended(is_complete=is_done).to_json())


def grow(owner: ResultGroup, manifest: Manifest, marks: Marks, n_items: int) -> Manifest:
    """Make room for more items; a last unit that was not full is to do again."""
    old = manifest.units
    units = replace(old, n_items=n_items)
    sizes = replace(manifest.sizes, units=units)
    owner.set_manifest(replace(manifest, state="partial").to_json())
    if old.n_items % old.unit_items:
        marks[-old.n_blocks :] = TODO
    owner.set_marks(fit(marks, units.n_units))
    for spec in map(owner.spec, owner.names()):
        if spec.dims[:1] == (ITEM,):
            owner.resize(spec.name, (n_items, *spec.shape[1:]))
    # Last, since from here on all these items count.
    grown = replace(manifest, state="partial", sizes=sizes)
    owner.set_manifest(grown.to_json())
    return grown


def _check_same(group: ResultGroup, recipe: Recipe) -> None:
    """Refuse another computation, and a function that gives other arrays under the same version."""
    manifest = Manifest.from_json(group.manifest(), location=group.location)
    if manifest.computation.fingerprint != recipe.computation.fingerprint:
        told = "; ".join(differences(manifest.computation, recipe.computation))
        raise MismatchError(
            f"{group.location} is another computation: {told}. Give what it was computed "
            "with, or leave out resume."
        )
    there = [(output.name, output.shape, output.dtype.name) for output in manifest.outputs]
    here = [(output.name, output.shape, output.dtype.name) for output in recipe.outputs]
    if there != here:
        raise MismatchError(
            f"{group.location} was begun with the outputs {there}, the function gives {here}. "
            "Give another version, or resume=False."
        )


def _write_params(owner: ResultGroup, recipe: Recipe) -> None:
    for array, values in recipe.stored_arrays.items():
        owner.write(f"{PARAMS}/{array}", [0] * values.ndim, values)


def _sound(owner: ResultGroup, manifest: Manifest) -> Marks:
    """Marks without those of units that a look at their chunks finds damaged."""
    marks = fit(owner.marks(), manifest.units.n_units)
    done = np.flatnonzero(marks == DONE).tolist()
    torn = [unit for unit in done if _is_damaged(owner, manifest, unit)]
    if torn:
        _log.warning("%s: units %s are damaged, and computed again", owner.location, torn)
        marks[torn] = TODO
        # Before the marks: what is called complete is not looked at again.
        owner.set_manifest(replace(manifest, state="partial").to_json())
        owner.set_marks(marks)
    return marks


def _is_damaged(owner: ResultGroup, manifest: Manifest, unit: int) -> bool:
    return any(next(owner.damage(*chunk), None) for chunk in manifest.regions(unit))


def _specs(recipe: Recipe, cut: Cut) -> list[ArraySpec]:
    """All arrays of a new result."""
    units = cut.sizes.units
    arrays = [_plain_spec(name, values) for name, values in recipe.stored_arrays.items()]
    if recipe.reduction is not None:
        return [*map(whole_spec, recipe.outputs), *partial_specs(cut.states, units), *arrays]
    items = [
        item_spec(output, units, recipe.channels, cut.sizes.block_times)
        for output in recipe.outputs
    ]
    return [*items, errors_spec(units), *arrays]


def _plain_spec(name: str, values: np.ndarray[Any, Any]) -> ArraySpec:
    shape = values.shape
    chunks = tuple(max(n, 1) for n in shape)
    last = name.rpartition("/")[2]
    dims = tuple(f"{last}_dim_{i}" for i in range(len(shape)))
    return ArraySpec(f"{PARAMS}/{name}", shape, chunks, values.dtype, dims)


def _reduce(owner: ResultGroup, manifest: Manifest, recipe: Recipe) -> None:
    """Combine the states of all units, in their order, and write what comes of it."""
    assert recipe.reduction is not None
    out = recipe.kernels[0].out
    structure: Any = jax.tree.structure(state_of(recipe.reduction, out))
    columns = [owner.read(name) for name, _ in manifest.regions(0)]
    states = [
        structure.unflatten([column[unit] for column in columns])
        for unit in range(manifest.units.n_units)
    ]
    values = jax.tree.leaves(combine_all(recipe.reduction, out, states))
    for output, value in zip(recipe.outputs, values, strict=True):
        owner.write(output.name, (0,) * len(output.shape), np.asarray(value))
