"""Which steps of a scan keep their draw.

Owned here: lengths, thinning, burn-in and masks, as data. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxstore.errors import MismatchError


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which steps keep their draw."""

    length: int
    thin: int = 1
    burn_in: int = 0
    keep: Callable[[Array], Any] | None = None

    def __post_init__(self) -> None:
        for name, low in (("length", 0), ("thin", 1), ("burn_in", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name} must be a whole number >= {low}, got {value!r}")
        if self.length >= 2**31:
            raise ValueError(f"length must be below 2**31, got {self.length}; run it in parts")
        if self.burn_in > self.length:
            raise ValueError(
                f"burn_in={self.burn_in} drops more than the {self.length} steps of the run; "
                "make it shorter than length"
            )
        if self.keep is not None and (self.thin != 1 or self.burn_in):
            raise ValueError("keep says which draws to keep: give it, or thin and burn_in")

    @property
    def n_draws(self) -> int | None:
        """Draws of each chain; None where `keep` decides."""
        return None if self.keep else (self.length - self.burn_in) // self.thin


def steps_of(xs: PyTree, length: int | None) -> int:
    """Number of steps, from `xs` and `length`."""
    lengths = {int(leaf.shape[0]) for leaf in jax.tree.leaves(xs)}
    if length is not None:
        lengths.add(length)
    if len(lengths) != 1:
        raise ValueError(
            f"scan needs one number of steps, got {sorted(lengths, key=str) or 'none'} from the "
            "leading axes of xs and from length"
        )
    return lengths.pop()


def kept_shape(keep: Callable[[Array], Any], chains: int | None) -> tuple[int, ...]:
    """Shape of what `keep` gives, () or (chains,).

    Raises:
        MismatchError: Neither of the two.
    """
    shape = jax.eval_shape(lambda i: jnp.asarray(keep(i)), jax.ShapeDtypeStruct((), "int32")).shape
    if shape not in {(), (chains,)}:
        raise MismatchError(
            f"keep gives shape {shape} for {chains or 1} chains; it must give one bool, or one "
            "per chain"
        )
    return shape
