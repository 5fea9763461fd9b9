"""Simulations as functions of one number: the key of each member, and its steps in blocks.

Owned here: which random keys a member gets, and how a trajectory is computed block by block. Where
the blocks go is `ensemble_steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, PyTree

from jaxstore.processing.kernel import name_of, strong
from jaxstore.processing.outputs import Output

Items = Int32[Array, " items"]

TIME = "time"  # name of the axis of times
_INIT = np.uint32(2**32 - 1)  # no time is as large
_BLOCK_BYTES = 32 << 10  # of a member in a chunk: 512 of them make one of 16 MiB


@dataclass(frozen=True, slots=True)
class Simulation:
    """A whole simulation in one call, as the kernel of a process over numbers."""

    simulate: Callable[..., PyTree[Any]]

    @property
    def __name__(self) -> str:
        return name_of(self.simulate)

    def __call__(self, i: Int32[Array, ""], *, key: Any, **params: Any) -> PyTree[Any]:
        """What member i gives."""
        return self.simulate(_member_key(key, i), i, **params)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A simulation in steps, as the batched kernel of a process over numbers.

    The key of step t is `fold_in(key_i, t)`. That of `init` is no `key_i`: `split(key_i)[0]` has
    the bits of `fold_in(key_i, 0)`, so what `init` splits off would come again in the steps.
    """

    init: Callable[..., PyTree[Any]]
    step: Callable[..., tuple[PyTree[Any], PyTree[Any]]]
    length: int  # steps
    thin: int  # of so many steps the output of the last is kept

    def __post_init__(self) -> None:
        if self.thin < 1:
            raise ValueError(f"thin must be >= 1, got {self.thin}")
        if not self.thin <= self.length < 2**31:
            raise ValueError(f"length must be in [thin={self.thin}, 2**31), got {self.length}")

    @property
    def __name__(self) -> str:
        return name_of(self.step)

    @property
    def n_times(self) -> int:
        """Outputs that are kept of a member."""
        return self.length // self.thin

    def __call__(self, items: Items, *, key: Any, **params: Any) -> PyTree[Array]:
        """Whole trajectories, (items, times, ...)."""
        n = self.n_times
        states = self.begin(items, key=key, **params)
        first = jnp.zeros((), jnp.int32)
        return self.advance(items, states, first, first + n, n_times=n, key=key, **params)[1]

    def begin(self, items: Items, *, key: Any, **params: Any) -> PyTree[Array]:
        """States before the first step, (items, ...)."""

        def one(i: Array) -> PyTree[Any]:
            return self.init(jax.random.fold_in(_member_key(key, i), _INIT), i, **params)

        return jax.tree.map(strong, jax.vmap(one)(items))

    def advance(
        self,
        items: Items,
        states: PyTree[Array],
        first: Int32[Array, ""],
        n: Int32[Array, ""],
        *,
        n_times: int,
        **given: Any,
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """States n kept times later, and the outputs of those times, (items, n_times, ...).

        How many times there are is an argument of the program, not a part of it: one program
        computes each block, a short last one too, so that no bit hangs on how blocks are cut.

        Args:
            items: Members.
            states: At time `first`.
            first: Kept times before.
            n: Kept times to compute; of the others the outputs are 0.
            n_times: There is room for.
            given: The key of the ensemble, and the parameters.
        """
        key, params = given["key"], {name: given[name] for name in given if name != "key"}

        def step(t: Array, states: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
            def one(i: Array, state: PyTree[Array]) -> Any:
                key_it = jax.random.fold_in(_member_key(key, i), t)
                return self.step(key_it, state, t, **params)

            return jax.vmap(one)(items, states)

        def keep(k: Array, carry: Any) -> Any:
            states, kept = carry
            last = (first + k) * self.thin + self.thin - 1
            if self.thin > 1:
                skipped = last - self.thin + 1
                states = jax.lax.fori_loop(skipped, last, lambda t, s: step(t, s)[0], states)
            states, outputs = step(last, states)
            return states, jax.tree.map(lambda into, out: into.at[k].set(out), kept, outputs)

        shapes = jax.eval_shape(lambda s: step(first, s)[1], states)
        empty = jax.tree.map(lambda s: jnp.zeros((n_times, *s.shape), s.dtype), shapes)
        states, kept = jax.lax.fori_loop(0, n, keep, (states, empty))
        # Times come first in the loop, where each is written at once.
        return states, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), kept)


def with_times(output: Output, dims: Mapping[str, Any]) -> Output:
    """An output of a trajectory, with its first axis named."""
    return output if output.name in dims else replace(output, dims=(TIME, *output.dims[1:]))


def times_in_block(outputs: Sequence[Output]) -> int:
    """Times in a chunk of a result of trajectories. Neither memory nor members are looked at."""
    n_times = outputs[0].shape[0]
    per_time = sum(output.item_bytes for output in outputs) // n_times
    return max(1, min(n_times, _BLOCK_BYTES // max(1, per_time)))


def _member_key(key: Any, i: Array) -> Array:
    return jax.random.fold_in(key if isinstance(key, jax.Array) else jnp.asarray(key), i)
