"""How a recipe is cut into units and batches, and the programs that compute them.

Owned here: the step from a recipe to work. Which sizes fit the memory is `memory`'s; a result that
is continued has its sizes in its manifest, since other sizes would give other bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

import jax

from jaxstore.processing.ensemble_items import Numbers
from jaxstore.processing.ensemble_simulation import times_in_block
from jaxstore.processing.ensemble_steps import Stepping, Steps, block_bytes, compile_steps
from jaxstore.processing.fold import Fold, compile_fold
from jaxstore.processing.memory import BatchPlan, Demand, plan_batch, planned
from jaxstore.processing.options import Options
from jaxstore.processing.program import Program, compile_program
from jaxstore.processing.recipe import Recipe
from jaxstore.processing.reduce import state_of
from jaxstore.processing.units import Sizes, Units
from jaxstore.processing.work import Folding, Input, Mapping, Streaming, Work

_UNIT_BYTES = 4 << 20  # of a source that is small: enough for a unit of its own
_MOST_UNITS_WANTED = 16  # enough for a few workers, and to lose little in a kill
_MOST_REMOTE_UNITS_WANTED = 64  # each waits for its chunks, so that many at once are worth it
_FEW_ITEMS = 32  # of an ensemble; a step of fewer small ones takes as long (measured)
_CHUNK_BYTES = 16 << 20  # of trajectories


@dataclass(frozen=True, slots=True)
class Cut:
    """The work of a recipe, in sizes that fit."""

    sizes: Sizes
    plan: BatchPlan
    work: Work | Streaming
    states: tuple[jax.ShapeDtypeStruct, ...]  # of a reduction, one of each per unit


def cut_afresh(recipe: Recipe, options: Options) -> Cut:
    """Sizes that fit the memory, and programs.

    Raises:
        TooLargeError: A single item does not fit.
    """
    demand = _demand(recipe)
    memory_bytes, wanted = options.memory_bytes, options.unit_items
    times = None if recipe.trajectory is None else times_in_block(recipe.outputs)
    compiled = cache(partial(_compile, recipe, times))
    batch_size, unit_items = options.batch_size, wanted
    if batch_size is None or unit_items is None:
        # Of a batch larger than the units that are asked for, no program would be of use.
        within = (
            demand
            if wanted is None
            else replace(demand, n_items=min(wanted, demand.n_items), n_units_wanted=1)
        )
        plan = plan_batch(
            compiled, within, memory_bytes=memory_bytes, platform=jax.default_backend()
        )
        unit_items = wanted or plan.unit_items
        batch_size = batch_size or min(plan.batch_size, unit_items)
    program = compiled(batch_size)
    plan = planned(demand, batch_size, unit_items, program.n_bytes, memory_bytes)
    sizes = Sizes(batch_size, _units(recipe, unit_items), times)
    return _cut(recipe, sizes, plan, program)


def cut_again(recipe: Recipe, options: Options, sizes: Sizes) -> Cut:
    """Programs for the sizes that a result was begun with.

    Raises:
        TooLargeError: They take more memory than there is now.
    """
    program = _compile(recipe, sizes.block_times, sizes.batch_size)
    plan = planned(
        _demand(recipe),
        sizes.batch_size,
        sizes.units.unit_items,
        program.n_bytes,
        options.memory_bytes,
    )
    return _cut(recipe, sizes, plan, program)


def _cut(recipe: Recipe, sizes: Sizes, plan: BatchPlan, program: Program | Fold | Steps) -> Cut:
    taken = Input(
        recipe.sources, recipe.selection, sizes.units, recipe.channels, recipe.order.hooks
    )
    if isinstance(program, Fold):
        assert recipe.reduction is not None
        states = state_of(recipe.reduction, recipe.kernels[0].out)
        return Cut(sizes, plan, Folding(taken, program), tuple(jax.tree.leaves(states)))
    if isinstance(program, Steps):
        return Cut(sizes, plan, Stepping(taken, program, recipe.outputs), ())
    last = [compile_program(kernel, sizes.batch_size) for kernel in recipe.kernels[1:]]
    return Cut(sizes, plan, Mapping(taken, (program, *last), recipe.outputs), ())


def _compile(recipe: Recipe, times: int | None, batch_size: int) -> Program | Fold | Steps:
    if times is not None:
        return compile_steps(recipe.kernels[0], batch_size, times)
    if recipe.reduction is None:
        return compile_program(recipe.kernels[0], batch_size)
    return compile_fold(recipe.kernels[0], recipe.reduction, batch_size)


def _demand(recipe: Recipe) -> Demand:
    """The recipe in sizes. No number of workers is in it, since sizes decide bits."""
    sources, kernel = recipe.sources, recipe.kernels[0]
    stored = sum(leaf.geometry.row_bytes for leaf in sources.leaves)
    # Values that are cast, or cut into channels, are there twice for a moment.
    is_copied = recipe.order.dtype is not None or recipe.channels is not None
    item_bytes = kernel.item_bytes + stored if is_copied else stored
    n_items = recipe.selection.n_items
    most_wanted = _MOST_REMOTE_UNITS_WANTED if sources.is_remote else _MOST_UNITS_WANTED
    wanted = min(most_wanted, max(1, n_items * item_bytes // _UNIT_BYTES))
    out_bytes = 0 if recipe.reduction is not None else kernel.out_bytes
    if isinstance(recipe.order.source, Numbers):  # their bytes say nothing of the work
        wanted = min(_MOST_UNITS_WANTED, max(1, n_items // _FEW_ITEMS))
    if recipe.trajectory is not None:
        state_bytes, out_bytes = block_bytes(kernel, times_in_block(recipe.outputs))
        item_bytes += state_bytes
        wanted = max(wanted, n_items * out_bytes // _CHUNK_BYTES)
    return Demand(
        n_items=n_items,
        item_bytes=item_bytes,
        out_bytes=out_bytes,
        chunk_rows=sources.chunk_items,
        n_units_wanted=min(wanted, n_items),
        is_picked=recipe.selection.indices is not None,
    )


def _units(recipe: Recipe, unit_items: int) -> Units:
    n_blocks = 1 if recipe.channels is None else recipe.channels.n_blocks
    return Units(recipe.selection.n_items, unit_items, n_blocks)
