"""A block: consecutive draws of chains that advance together, on their way to a collector.

Owned here: the record, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive draws, the same number for each of `n_chains` neighbouring chains."""

    first_chain: int
    steps: HostArray  # (n_chains, n_draws) int64; the step at which each draw was taken
    leaves: tuple[HostArray, ...]  # (n_chains, n_draws, *leaf.shape) each
    sender_chains: int  # chains of the program it came from; each sends its own if more than here

    @property
    def n_chains(self) -> int:
        """Chains in this block."""
        return self.steps.shape[0]

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return self.steps.shape[1]

    @property
    def n_bytes(self) -> int:
        """Bytes that its arrays hold."""
        return self.steps.nbytes + sum(leaf.nbytes for leaf in self.leaves)

    def head(self, n_draws: int) -> Block:
        """The first draws of each chain, without a copy."""
        leaves = tuple(a[:, :n_draws] for a in self.leaves)
        return replace(self, steps=self.steps[:, :n_draws], leaves=leaves)

    def split(self) -> Iterator[Block]:
        """A block per chain, without a copy."""
        for i in range(self.n_chains):
            yield replace(
                self,
                first_chain=self.first_chain + i,
                steps=self.steps[i : i + 1],
                leaves=tuple(a[i : i + 1] for a in self.leaves),
            )
