"""The arrays that a process takes its items from: one, or several in step.

Owned here: a pytree of places as a pytree of open sources. Where results beside a source go, is
`beside`'s.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.processing.ensemble_items import Numbers
from jaxstore.processing.reading import read_channels, read_items
from jaxstore.processing.selection import Items
from jaxstore.processing.units import Channels
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.opening import let_write, open_arrays

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """Open arrays of as many items, in the structure that the kernel takes."""

    leaves: tuple[RowSource, ...]
    structure: jax.tree_util.PyTreeDef
    dtypes: tuple[np.dtype[Any], ...]  # that the kernel takes, a leaf each

    @property
    def n_items(self) -> int:
        """Of each of them."""
        return self.leaves[0].geometry.n_samples

    @property
    def is_remote(self) -> bool:
        """Whether reads wait for a network."""
        return any(leaf.is_remote for leaf in self.leaves)

    @property
    def chunk_items(self) -> int:
        """Items that are stored together, of the array that stores most so."""
        # A chunk may be longer than its array, and an item of the others large.
        return min(self.n_items, max(leaf.geometry.sample_chunk_size for leaf in self.leaves))

    def item(self, channels: Channels | None = None, block: int = 0) -> PyTree[Any]:
        """Shape and dtype of one item, as the kernel takes it."""
        shapes = [leaf.geometry.inner_shape for leaf in self.leaves]
        if channels is not None:
            part = channels.within(block)
            shapes = [channels.resized(shape, part.stop - part.start) for shape in shapes]
        pairs = zip(shapes, self.dtypes, strict=True)
        structs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in pairs]
        return self.structure.unflatten(structs)

    def read(self, items: Items, channels: Channels | None = None, block: int = 0) -> PyTree[Array]:
        """Items of all arrays, each with the items on axis 0."""
        found = []
        for leaf, dtype in zip(self.leaves, self.dtypes, strict=True):
            if isinstance(leaf, Numbers):
                values = leaf.take(items)
            elif channels is None:
                values = read_items(leaf, items)
            else:
                values = read_channels(leaf, items, channels, block)
            found.append(values.astype(dtype, copy=False))
        return self.structure.unflatten(found)

    def close(self) -> None:
        """Let go of what was opened."""
        for leaf in self.leaves:
            leaf.close()


def open_sources(
    source: PyTree[Any], *, axis: PyTree[int], dtype: PyTree[Any], is_strict: bool
) -> Sources:
    """Open the arrays of a pytree of places.

    Args:
        source: A place of one array, as `open_arrays` takes it; or a tuple, list or mapping of
            such, nested as the kernel wants its items.
        axis: The sample axis, one for all or one for each.
        dtype: What values are cast to, one for all or one for each; None for as they are.
        is_strict: Whether absent chunks are errors, not fill values.

    Raises:
        MismatchError: They differ in the number of items.
        JaxstoreError: As for `open_arrays`.
    """
    places, structure = jax.tree.flatten(source, is_leaf=is_place)
    if not places:
        raise MismatchError(f"the source is {source!r}, without any array. Name one.")
    axes, dtypes = _each(axis, structure, "axis"), _each(dtype, structure, "dtype")
    leaves: list[RowSource] = []
    try:
        for place, along in zip(places, axes, strict=True):
            leaves.append(_open(place, axis=along, is_strict=is_strict))
        _check_lengths(leaves)
        for leaf in leaves:
            let_write(leaf)  # results may go beside it
    except BaseException:
        for leaf in leaves:
            leaf.close()
        raise
    kept = [
        np.dtype(leaf.geometry.dtype if cast is None else cast)
        for leaf, cast in zip(leaves, dtypes, strict=True)
    ]
    return Sources(tuple(leaves), structure, tuple(kept))


def is_place(node: Any) -> bool:
    """Whether a node of a source is one place, not a container of several."""
    return not isinstance(node, (tuple, list)) and type(node) is not dict


def _open(place: Any, *, axis: int, is_strict: bool) -> RowSource:
    if isinstance(place, RowSource):
        return place
    found = open_arrays(place, axis=axis, is_strict=is_strict)
    if len(found) == 1:
        return next(iter(found.values()))
    for source in found.values():
        source.close()
    there = ", ".join(map(repr, found))
    shown = place if isinstance(place, (str, os.PathLike)) else type(place).__name__
    raise MismatchError(
        f"{shown} has several arrays: {there}. Name one of them, as in 'data.zarr:/x'."
    )


def _each(given: Any, structure: jax.tree_util.PyTreeDef, what: str) -> list[Any]:
    """One value per leaf, out of one for all or a container of the same structure."""
    if is_place(given):
        return [given] * structure.num_leaves
    values, found = jax.tree.flatten(given, is_leaf=lambda x: x is None or is_place(x))
    if found != structure:
        raise MismatchError(
            f"{what} is {given!r}, which is not built as the source is. Give one for all, or the "
            "same containers."
        )
    return values


def _check_lengths(leaves: list[RowSource]) -> None:
    lengths = {leaf.geometry.n_samples for leaf in leaves}
    if len(lengths) > 1:
        told = ", ".join(
            f"{leaf.geometry.name!r} {leaf.geometry.n_samples} (axis {leaf.geometry.axis} of "
            f"{leaf.geometry.shape})"
            for leaf in leaves
        )
        raise MismatchError(
            f"the sources have different numbers of items: {told}. Give the sample axis of each."
        )
    if lengths == {0}:
        leaf = leaves[0]
        raise MismatchError(
            f"{leaf.geometry.name!r} in {leaf.location} has shape {leaf.geometry.shape}, so no "
            f"items along axis {leaf.geometry.axis}."
        )
