"""The parts of a checkpoint: what each sender of a running program brings to it.

Owned here: when they are all there, and how they join. What a checkpoint is, is `checkpoint`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.saving.block import HostArray
from jaxstore.saving.checkpoint import Checkpoint, SenderState, StateLayout, as_jax
from jaxstore.stores.base import Json


@dataclass(frozen=True, slots=True)
class Part:
    """What one sender brings to a checkpoint."""

    step: int
    layout: StateLayout
    leaves: tuple[HostArray, ...]  # (lanes, *leaf.shape) each
    lanes: tuple[int, ...]  # shape of its lanes
    sender: SenderState
    draws: Mapping[int, int]  # by chain
    loaders: tuple[Json, ...]
    treedef: Any  # of the state

    def state_of(self, lane: int) -> PyTree:
        """The state of one chain, in the structure that the program has."""
        values = [
            as_jax(array[lane], leaf) if leaf.key_impl else array[lane]
            for array, leaf in zip(self.leaves, self.layout, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, values)


def join_parts(parts: Sequence[Part], *, ended: Mapping[int, int]) -> Checkpoint:
    """One checkpoint of the parts of all senders at one step.

    The state of a single sender keeps the axes of its lanes; of several the chains are one axis.

    Args:
        parts: Of all senders; none where only what ended shall stay.
        ended: Draws by chain, of those that get no more.
    """
    draws = {**ended, **{chain: n for part in parts for chain, n in part.draws.items()}}
    counts = tuple(draws.get(chain, 0) for chain in range(max(draws) + 1))
    if not parts:
        return Checkpoint(0, counts, (), (), (), (), tuple(ended))
    first = parts[0]
    lanes, leaves = first.lanes, first.leaves
    if len(parts) > 1:
        chains = [chain for part in parts for chain in part.sender.chains]
        order = np.argsort(chains)
        lanes = (len(chains),)
        arrays = zip(*(part.leaves for part in parts), strict=True)
        leaves = tuple(np.concatenate(same)[order] for same in arrays)
    return Checkpoint(
        step=first.step,
        draws=counts,
        layout=first.layout,
        leaves=tuple(
            array.reshape((*lanes, *leaf.shape))
            for leaf, array in zip(first.layout, leaves, strict=True)
        ),
        lanes=lanes,
        senders=tuple(part.sender for part in parts),
        ended=tuple(ended),
        loaders=first.loaders,
    )


class Gathering:
    """Parts that wait for those of other senders at the same step."""

    def __init__(self) -> None:
        self._parts: dict[int, list[Part]] = {}  # by step

    def take(self, part: Part, *, n_senders: int) -> list[Part]:
        """Take a part; all of its step if it is the last, else none."""
        parts = [*self._parts.pop(part.step, ()), part]
        if len(parts) < n_senders:
            self._parts[part.step] = parts
            return []
        # Senders reach their steps in order, so what is older will never be whole.
        self._parts = {step: p for step, p in self._parts.items() if step > part.step}
        return parts
