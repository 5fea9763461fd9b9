"""What a unit is made of: items that are read, a program that runs, chunks that it makes up.

Owned here: two kinds of work, an output for each item and a state of a reduction for each unit;
the third, which gives a unit in pieces, is `ensemble_steps`'. What happens around them is `job`'s.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.processing.fold import Fold
from jaxstore.processing.outputs import Output, partial_regions, unit_regions
from jaxstore.processing.program import Program
from jaxstore.processing.selection import Items, Selection
from jaxstore.processing.sourcing import Sources
from jaxstore.processing.units import Channels, Units
from jaxstore.stores.base import Json
from jaxstore.stores.results import Region

Array = np.ndarray[Any, Any]
Piece = tuple[str, tuple[int, ...], Array]  # array, where in it, values of whole chunks


class Work(Protocol):
    """How the units of one result are computed. For several threads at once."""

    @property
    def input(self) -> Input:
        """What units take, and how the work is cut."""
        ...

    def compute(self, unit: int, values: PyTree[Array]) -> list[Array]:
        """What a unit writes, of items that were read; in the order of `regions`."""
        ...

    def regions(self, unit: int) -> Iterator[tuple[str, Region]]:
        """Where a unit writes: arrays and whole chunks of them."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """Work of which not even one unit is held as a whole."""

    @property
    def input(self) -> Input:
        """As `Work.input`."""
        ...

    def pieces(self, unit: int, values: PyTree[Array]) -> Iterator[list[Piece]]:
        """What a unit writes, one lot after the other."""
        ...

    def regions(self, unit: int) -> Iterator[tuple[str, Region]]:
        """Where a unit writes, as `Work.regions`."""
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the host does beside the compiled program, which no fingerprint sees."""

    read: Callable[[PyTree[Array], Items], PyTree[Array]] | None = None  # of values and items
    write: Callable[[PyTree[Array]], PyTree[Array]] | None = None  # of outputs
    metadata: Callable[[Any], abc.Mapping[str, Json]] | None = None  # of a result that is whole


@dataclass(frozen=True, slots=True)
class Input:
    """Items of the sources, as units take them."""

    sources: Sources
    selection: Selection
    units: Units
    channels: Channels | None
    hooks: Hooks

    def read(self, unit: int, items: range) -> PyTree[Array]:
        """Some items of a unit, given as places in the result, on axis 0 of each leaf."""
        wanted = self.selection.items(items.start, items.stop)
        return self.take(wanted, self.units.block(unit))

    def take(self, items: Items, block: int) -> PyTree[Array]:
        """Any items, by their indices in the source, of one block of channels."""
        values = self.sources.read(items, self.channels, block)
        return values if self.hooks.read is None else self.hooks.read(values, items)


@dataclass(frozen=True, slots=True)
class Mapping:
    """An output for each item."""

    input: Input
    programs: tuple[Program, ...]  # of a block of channels, and of the last block if it has fewer
    outputs: tuple[Output, ...]

    def compute(self, unit: int, values: PyTree[Array]) -> list[Array]:
        """Outputs, (items, ...) each."""
        units = self.input.units
        is_last = units.block(unit) == units.n_blocks - 1
        outputs = self.programs[-1 if is_last else 0](values)
        change = self.input.hooks.write
        return jax.tree.leaves(outputs if change is None else _changed(outputs, change))

    def regions(self, unit: int) -> Iterator[tuple[str, Region]]:
        """The items of a unit in each output."""
        return unit_regions(unit, self.input.units, self.input.channels, self.outputs)


@dataclass(frozen=True, slots=True)
class Folding:
    """A state of a reduction for each unit."""

    input: Input
    fold: Fold

    def compute(self, unit: int, values: PyTree[Array]) -> list[Array]:
        """The leaves of the state, (1, ...) each."""
        state = self.fold(self.fold.start, values)
        return [np.asarray(leaf)[None] for leaf in jax.tree.leaves(state)]

    def regions(self, unit: int) -> Iterator[tuple[str, Region]]:
        """The state of a unit."""
        return partial_regions(unit, jax.tree.leaves(self.fold.start))


def _changed(outputs: PyTree[Array], change: Callable[[PyTree[Array]], PyTree[Array]]) -> Any:
    """Outputs as a hook changed them, which may not be other arrays."""
    changed = jax.tree.map(np.asarray, change(outputs))
    before, after = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)
        for tree in (outputs, changed)
    )
    if before != after:
        raise MismatchError(
            f"write gives {after} for outputs that are {before}. Only values may change; other "
            "arrays are given in the kernel."
        )
    return changed
