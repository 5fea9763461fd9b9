"""How the work of a process is cut: blocks of items, and blocks of channels within them.

Owned here: arithmetic only. A unit is what is computed, written and marked as a whole; it is made
of whole chunks of the result, so that no two units share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Channels:
    """An axis of an item that is cut into blocks, each computed by itself."""

    axis: int  # of an item, and of each output
    n: int
    block: int  # channels at once; the last block may have fewer

    def __post_init__(self) -> None:
        if not 1 <= self.block <= self.n:
            raise ValueError(f"chan_per_worker must be in [1, {self.n}], got {self.block}")

    @property
    def n_blocks(self) -> int:
        """Blocks of channels."""
        return -(-self.n // self.block)

    def within(self, block: int) -> slice:
        """The channels of a block."""
        return slice(block * self.block, min((block + 1) * self.block, self.n))

    def resized(self, shape: Sequence[int], n: int) -> tuple[int, ...]:
        """A shape with another number of channels."""
        return (*shape[: self.axis], n, *shape[self.axis + 1 :])


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one result, numbered by items first, so that more items only add units.

    >>> units = Units(n_items=10, unit_items=4)
    >>> units.n_units, units.items(2), units.n_items_of([0, 2])
    (3, range(8, 10), 6)
    """

    n_items: int
    unit_items: int  # the last unit may have fewer
    n_blocks: int = 1  # of channels

    def __post_init__(self) -> None:
        if min(self.n_items, self.unit_items, self.n_blocks) < 1:
            raise ValueError(f"there must be items, units and blocks: {self}")

    @property
    def n_units(self) -> int:
        """All of them."""
        return -(-self.n_items // self.unit_items) * self.n_blocks

    def items(self, unit: int) -> range:
        """The items of a unit, as places in the result."""
        start = unit // self.n_blocks * self.unit_items
        return range(start, min(start + self.unit_items, self.n_items))

    def block(self, unit: int) -> int:
        """The block of channels of a unit."""
        return unit % self.n_blocks

    def n_items_of(self, units: Sequence[int]) -> int:
        """Items of some units together; of blocks of channels, each counts its part of them."""
        return round(sum(len(self.items(unit)) for unit in units) / self.n_blocks)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What decides bits, besides what is computed; kept with the result."""

    batch_size: int
    units: Units
    block_times: int | None = None  # of trajectories: times in a chunk

    def to_json(self) -> dict[str, int | None]:
        """This record for a manifest, and for other processes."""
        return {
            "batch_size": self.batch_size,
            "unit_items": self.units.unit_items,
            "n_items": self.units.n_items,
            "n_units": self.units.n_units,
            "n_blocks": self.units.n_blocks,
            "block_times": self.block_times,
        }

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Sizes:
        """A record out of a manifest."""
        units = Units(int(found["n_items"]), int(found["unit_items"]), int(found["n_blocks"]))
        times = found["block_times"]
        return Sizes(int(found["batch_size"]), units, None if times is None else int(times))


def deal(units: Sequence[int], rank: int, size: int) -> Sequence[int]:
    """The share of one of several workers, round and round, so that no two differ by more than one.

    >>> [len(deal(range(7), rank, 4)) for rank in range(4)]
    [2, 2, 2, 1]
    """
    return units[rank::size]
