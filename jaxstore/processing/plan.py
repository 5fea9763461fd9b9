"""What a process will do, told before it starts; nothing is written.

Owned here: the numbers, and how they read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import PyTree

from jaxstore.card import card, lines
from jaxstore.processing.crew import Crew
from jaxstore.processing.cut import Cut
from jaxstore.processing.finding import Matches
from jaxstore.processing.outputs import Output
from jaxstore.processing.recipe import Recipe
from jaxstore.processing.task import wanted_inflight
from jaxstore.processing.units import Units
from jaxstore.sizes import size
from jaxstore.tree import nest


@dataclass(frozen=True, slots=True)
class Plan:
    """A process in numbers."""

    name: str
    sources: tuple[str, ...]  # each with shape and dtype
    target: str
    outputs: tuple[Output, ...]
    n_items: int
    batch_size: int  # items computed at once
    unit_items: int  # items that are written and marked as a whole
    n_units: int
    engine: str
    workers: int
    inflight: int  # units in memory at once, in each process
    batch_bytes: int  # of the compiled program while it runs
    projected_bytes: int  # the most that each process takes
    memory_bytes: int  # the limit
    result_bytes: int  # before compression
    reads_per_chunk: float  # how often a stored chunk is read; 1 where units are whole chunks
    fingerprint: str
    matches: tuple[str, ...]  # complete results of the same computation
    partials: tuple[str, ...]  # partial ones
    differences: tuple[tuple[str, str], ...]  # other results of that name, and what differs

    @property
    def out(self) -> PyTree[Output]:
        """Shapes and dtypes of the outputs, in nested dicts as the kernel gives them."""
        return nest([(output.keys, output) for output in self.outputs])

    @property
    def title(self) -> str:
        """What is computed of what."""
        return f"{self.name} of {', '.join(self.sources)}"

    @property
    def facts(self) -> dict[str, str]:
        """The numbers in words."""
        next_step = "computed afresh"
        if self.matches:
            next_step = f"nothing to do: {self.matches[-1]} is complete"
        elif self.partials:
            next_step = f"{self.partials[-1]} is continued"
        arrays = [f"{output.name} {output.shape} {output.dtype}" for output in self.outputs]
        return {
            "into": f"{self.target}: {next_step}",
            "gives": f"{', '.join(arrays)} for each item; {size(self.result_bytes)}",
            "items": f"{self.n_items:,} in {self.n_units:,} units of {self.unit_items:,}, "
            f"{self.batch_size:,} computed at once; each chunk read "
            f"{_times(self.reads_per_chunk)}",
            "engine": f"{self.engine}, {self.workers} at once",
            "memory": f"{size(self.projected_bytes)} of {size(self.memory_bytes)}: "
            f"{self.inflight} units, a program of {size(self.batch_bytes)}",
            "unlike": "; ".join(f"{group}: {why}" for group, why in self.differences),
        }

    def __str__(self) -> str:
        return lines(self.title, self.facts)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return card(self.title, self.facts)


def plan_of(recipe: Recipe, cut: Cut, crew: Crew, target: str, found: Matches) -> Plan:
    """A recipe that was cut, in numbers."""
    units = cut.sizes.units
    per_item = sum(output.item_bytes for output in recipe.outputs)
    wanted = wanted_inflight(recipe, crew.workers)
    return Plan(
        name=recipe.order.process_name,
        sources=tuple(
            f"{leaf.geometry.name} {leaf.geometry.shape} {leaf.geometry.dtype} in {leaf.location}"
            for leaf in recipe.sources.leaves
        ),
        target=target,
        outputs=recipe.outputs,
        n_items=units.n_items,
        batch_size=cut.sizes.batch_size,
        unit_items=units.unit_items,
        n_units=units.n_units,
        engine=crew.name,
        workers=crew.n_workers,
        inflight=cut.plan.n_inflight(wanted),
        batch_bytes=cut.plan.batch_bytes,
        projected_bytes=cut.plan.projected_bytes(wanted),
        memory_bytes=cut.plan.memory_bytes,
        result_bytes=per_item * (1 if recipe.reduction is not None else units.n_items),
        reads_per_chunk=_reads_per_chunk(recipe, units),
        fingerprint=recipe.computation.fingerprint,
        matches=found.complete,
        partials=found.partial,
        differences=found.others,
    )


def _reads_per_chunk(recipe: Recipe, units: Units) -> float:
    """How often a stored chunk that is needed is read, on the average."""
    n_read, needed = 0, set[tuple[int, int]]()
    for number, leaf in enumerate(recipe.sources.leaves):
        rows = leaf.geometry.sample_chunk_size
        for unit in range(0, units.n_units, units.n_blocks):
            items = units.items(unit)
            chunks = np.unique(recipe.selection.items(items.start, items.stop) // rows).tolist()
            n_read += len(chunks)
            needed |= {(number, chunk) for chunk in chunks}
    return n_read / len(needed)


def _times(n: float) -> str:
    return "once" if n == 1 else f"{n:.3g} times"
