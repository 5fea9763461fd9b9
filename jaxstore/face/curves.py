"""What a picture of a run shows, as numbers: components, marginal densities, thinned traces.

Owned here: choosing and computing, without matplotlib. Drawing is `picture`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxstore.errors import MissingError
from jaxstore.saving.run import Run
from jaxstore.saving.stored import StoredArray

Values = Float[np.ndarray, " draw"]
GRID_CELLS = 400  # of a density; the picture is about so many pixels wide
MOST_BARS = 100  # whole numbers with more values than this get a density


@dataclass(frozen=True, slots=True)
class Component:
    """One number of a draw, in all chains."""

    label: str  # "beta[bmi]"
    chains: tuple[Values, ...]  # each as long as its chain
    is_whole: bool  # whole numbers or truth values


@dataclass(frozen=True, slots=True)
class Curve:
    """Points to join by a line."""

    x: Values
    y: Values


def choose_leaves(run: Run, *, names: Sequence[str], group: str | None) -> list[StoredArray]:
    """Leaves of one group, "posterior" if there is one and none is named; no random keys.

    Args:
        run: That has them.
        names: Names below the group, "beta"; empty takes all.
        group: Of the run, or None.

    Raises:
        MissingError: There is no such group or leaf.
    """
    if group is None:
        group = "posterior" if "posterior" in run.groups else run.groups[0]
    if group not in run.groups:
        raise MissingError(
            f"{run.location} has no group {group!r}. Choose one of {', '.join(run.groups)}."
        )
    leaves = {
        leaf.name.removeprefix(f"{group}/"): leaf
        for leaf in run.leaves
        if leaf.name.startswith(f"{group}/") and not leaf.leaf.key_impl
    }
    if missing := [name for name in names if name not in leaves]:
        raise MissingError(
            f"{run.location} has no {', '.join(missing)} in {group!r}. "
            f"Choose from {', '.join(leaves)}."
        )
    return [leaves[name] for name in names or leaves]


def components(leaf: StoredArray, *, group: str, most: int) -> list[Component]:
    """The first components of a leaf; complex ones as their magnitude."""
    return [
        component(leaf, index, label_of(leaf, index, group=group))
        for index in islice(np.ndindex(leaf.shape[2:]), most)
    ]


def component(leaf: StoredArray, index: tuple[int, ...], label: str) -> Component:
    """One component of a leaf."""
    values = np.asarray(leaf[(slice(None), slice(None), *index)])
    is_whole = leaf.dtype == np.bool_ or jnp.issubdtype(leaf.dtype, np.integer)  # int4 too
    if jnp.issubdtype(leaf.dtype, np.complexfloating):
        values, label = np.abs(values), f"|{label}|"
    values = values.astype(np.float64)
    chains = tuple(row[:n] for row, n in zip(values, leaf.draws, strict=True))
    return Component(label, chains, bool(is_whole))


def label_of(leaf: StoredArray, index: tuple[int, ...], *, group: str) -> str:
    """Name of a component, with the coordinates where they were given: "beta[bmi]"."""
    parent = leaf.name.rpartition("/")[0]
    marks = []
    for dim, i in zip(leaf.leaf.dims, index, strict=False):
        values = coordinate(leaf, f"{parent}/{dim}")
        marks.append(str(i if values is None else values[i]))
    name = leaf.name.removeprefix(f"{group}/")
    return f"{name}[{', '.join(marks)}]" if marks else name


def coordinate(leaf: StoredArray, name: str) -> Sequence[Any] | None:
    """The values along a dimension, None where none were given."""
    labels = leaf.store.labels(name)
    if labels is not None:
        return labels
    return leaf.store.read(name).tolist() if name in leaf.store.names() else None


def marginal(values: Values, *, is_whole: bool) -> Curve | None:
    """How often which value occurs, from all draws; None where there is nothing to show.

    >>> bars = marginal(np.array([0.0, 1.0, 1.0, 1.0]), is_whole=True)
    >>> bars.x.tolist(), bars.y.tolist()
    ([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5], [0.0, 0.25, 0.25, 0.75, 0.75, 0.0])
    """
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = float(values.min()), float(values.max())
    if is_whole and high - low < MOST_BARS:
        edges = np.arange(low, high + 2) - 0.5
        shares = np.histogram(values, edges)[0] / values.size
        return Curve(np.repeat(edges, 2), np.pad(np.repeat(shares, 2), 1))
    if values.size < 2 or not low < high:
        return None
    return density(values, low, high)


def density(values: Values, low: float, high: float) -> Curve:
    """A kernel density over [low, high], reflected at both ends, from binned values.

    The width is Silverman's rule (Silverman, 1986, Density Estimation, eq. 3.31).
    """
    counts, edges = np.histogram(values, GRID_CELLS, (low, high))
    cell = edges[1] - edges[0]
    quarter, three_quarters = np.percentile(values, (25, 75))
    spread = min(float(values.std()), float(three_quarters - quarter) / 1.34) or values.std()
    width = max(0.9 * float(spread) * values.size**-0.2 / cell, 1.0)  # in cells
    reach = min(int(4 * width) + 1, GRID_CELLS)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.pad(counts.astype(np.float64), reach, mode="symmetric")
    smooth = np.convolve(padded, kernel / kernel.sum(), mode="valid")
    return Curve((edges[:-1] + edges[1:]) / 2, smooth / (smooth.sum() * cell))


def thin_for_display(n_draws: int, *, most: int) -> int:
    """Of how many draws one is shown, so that at most so many are.

    >>> thin_for_display(1000, most=2000), thin_for_display(4001, most=2000)
    (1, 3)
    """
    return max(1, -(-n_draws // most))


def mean_and_sd(shown: Component) -> tuple[float, float] | None:
    """Over all chains; None without a finite draw."""
    values = np.concatenate((np.empty(0), *shown.chains))
    values = values[np.isfinite(values)]
    return (float(values.mean()), float(values.std())) if values.size else None
