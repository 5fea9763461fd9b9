"""Long trajectories, written block by block while they are computed.

Owned here: the program of a block of times, and the work that gives a unit in several pieces, so
that memory is bounded whatever the length. A unit is all times of its members; one that was cut
short begins again with its first step, since it is marked as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxstore.fingerprint import trace
from jaxstore.processing.batches import batches
from jaxstore.processing.ensemble_simulation import Trajectory
from jaxstore.processing.kernel import Kernel, n_bytes_of
from jaxstore.processing.outputs import Output, unit_regions
from jaxstore.processing.program import compile_for
from jaxstore.processing.work import Input, Piece
from jaxstore.stores.results import Region

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """A trajectory compiled for batches of one size and blocks of one length."""

    trajectory: Trajectory
    batch_size: int
    block_times: int
    n_bytes: int  # while it runs: arguments, outputs, temporaries
    begin: Callable[..., Any]  # of a batch: states
    advance: Callable[..., Any]  # of a batch, states, times before and times to go


def compile_steps(kernel: Kernel, batch_size: int, block_times: int) -> Steps:
    """Compile a kernel that is a trajectory."""
    trajectory, params = kernel.function, kernel.params
    assert isinstance(trajectory, Trajectory)
    items = kernel.batch(batch_size)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    begin = trace(lambda items: trajectory.begin(items, **params), items).call
    states = jax.eval_shape(begin, items)

    def advance(items: Any, states: Any, first: Any, n: Any) -> Any:
        return trajectory.advance(items, states, first, n, n_times=block_times, **params)

    traced = trace(advance, items, states, scalar, scalar).call
    begun, _ = compile_for(begin, items)
    advanced, n_bytes = compile_for(traced, items, states, scalar, scalar)
    return Steps(trajectory, batch_size, block_times, n_bytes, begun, advanced)


def block_bytes(kernel: Kernel, block_times: int) -> tuple[int, int]:
    """Bytes of one member: its state, and its outputs of a block of times."""
    trajectory, params = kernel.function, kernel.params
    assert isinstance(trajectory, Trajectory)
    states = jax.eval_shape(lambda items: trajectory.begin(items, **params), kernel.batch(1))
    return n_bytes_of(states), block_times * (kernel.out_bytes // trajectory.n_times)


@dataclass(frozen=True, slots=True)
class Stepping:
    """An output for each item and time."""

    input: Input
    steps: Steps
    outputs: tuple[Output, ...]

    def pieces(self, unit: int, values: PyTree[Array]) -> Iterator[list[Piece]]:
        """What a unit writes, a block of times after the other."""
        n_times, block = self.steps.trajectory.n_times, self.steps.block_times
        start = self.input.units.items(unit).start
        parts = list(batches(values, self.steps.batch_size))
        states = [self.steps.begin(batch) for batch, _ in parts]
        for first in range(0, n_times, block):
            n = min(block, n_times - first)
            kept = [np.empty((len(values), n, *o.shape[1:]), o.dtype) for o in self.outputs]
            for number, (batch, places) in enumerate(parts):
                states[number], outputs = self.steps.advance(
                    batch, states[number], np.int32(first), np.int32(n)
                )
                for into, out in zip(kept, jax.tree.leaves(outputs), strict=True):
                    into[places.start : places.stop] = np.asarray(out)[: len(places), :n]
            yield [
                (output.name, (start, first, *[0] * (len(output.shape) - 1)), value)
                for output, value in zip(self.outputs, kept, strict=True)
            ]

    def regions(self, unit: int) -> Iterator[tuple[str, Region]]:
        """The items of a unit in each output."""
        return unit_regions(unit, self.input.units, None, self.outputs)
