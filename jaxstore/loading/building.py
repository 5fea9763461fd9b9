"""From what a user asks for to a recipe: arrays, splits and views brought together.

Owned here: that they go together, and what to say if they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstore.errors import MismatchError
from jaxstore.loading.column import Column, columns_of
from jaxstore.loading.epoch import Schedule
from jaxstore.loading.options import Destination, Order
from jaxstore.loading.recipe import Recipe
from jaxstore.loading.shuffle import Rows
from jaxstore.loading.split import SplitManifest, SplitName, split_by_chunk, split_name
from jaxstore.loading.views import Variable, Variables, parse_variables, row_spans
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.geometry import ArrayGeometry
from jaxstore.sources.opening import open_arrays


def open_variables(
    source: Any, variables: Variables | None, *, axis: int | Mapping[str, int], is_strict: bool
) -> tuple[dict[str, Variable], dict[str, RowSource]]:
    """The variables by label, and the arrays they show by name.

    Raises:
        MissingError: There is no such place or array.
        MismatchError: Two variables take rows along different axes of one array.
    """
    if variables is None:
        sources = open_arrays(source, axis=axis, is_strict=is_strict)
        return parse_variables(None, list(sources)), sources
    if not isinstance(variables, str | Variable | Mapping):
        variables = list(variables)
    asked = _asked(variables)
    names = list(dict.fromkeys(variable.name for variable in asked))
    sources = open_arrays(source, names, axis=_axes(asked, axis), is_strict=is_strict)
    return parse_variables(variables, names), sources


def _asked(variables: Variables) -> list[Variable]:
    """The variables, before it is known whether there are such arrays."""
    if isinstance(variables, str | Variable):
        variables = [variables]
    given = variables.values() if isinstance(variables, Mapping) else variables
    return [Variable(v) if isinstance(v, str) else v for v in given]


def _axes(variables: Sequence[Variable], axis: int | Mapping[str, int]) -> int | Mapping[str, int]:
    """The sample axis by name of the array, where a variable has its own."""
    own: dict[str, int] = {}
    for variable in variables:
        if variable.axis is None:
            continue
        if own.setdefault(variable.name, variable.axis) != variable.axis:
            raise MismatchError(
                f"{variable.name!r} is asked for along axes {own[variable.name]} and "
                f"{variable.axis}. Load it twice, with a loader each."
            )
    if isinstance(axis, int):
        return {variable.name: axis for variable in variables} | own if own else axis
    names = {variable.name for variable in variables}
    return {name: n for name, n in axis.items() if name in names} | own


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of arrays: those of a split."""

    n_rows: int
    anchor_rows: int  # rows per chunk of the split
    anchors: Rows  # chunks of the split, ascending

    @property
    def n_split_rows(self) -> int:
        """Rows of the split."""
        starts = self.anchors * self.anchor_rows
        return int((np.minimum(starts + self.anchor_rows, self.n_rows) - starts).sum())


def select(
    geometries: Mapping[str, ArrayGeometry],
    *,
    split: SplitName | str | None,
    manifest: SplitManifest | None,
    n_rows: int | None,
) -> Selection:
    """The rows that are loaded.

    Args:
        geometries: Of the arrays.
        split: Its name; None is all rows.
        manifest: That names the chunks of each split; None makes the default one.
        n_rows: To count of each array; None is all, and then they must have equally many.

    Raises:
        MismatchError: The arrays have unequal lengths, or the manifest belongs to others.
    """
    anchor = _anchor(geometries, n_rows)
    if manifest is not None:
        if manifest.n_samples != anchor.n_samples:
            raise MismatchError(
                f"the manifest splits {manifest.n_samples:,} rows, {anchor.name!r} has "
                f"{anchor.n_samples:,}. Make one of this array, or give n_rows=."
            )
        if split is None:
            raise ValueError("a manifest is given, and no split of it. Give split='train'.")
    elif split is not None:
        manifest = split_by_chunk(anchor)
    if manifest is None or split is None:
        return Selection(anchor.n_samples, anchor.sample_chunk_size, np.arange(anchor.n_chunks))
    chunks = np.sort(np.asarray(manifest.chunks[split_name(split)], np.int64))
    return Selection(anchor.n_samples, manifest.sample_chunk_size, chunks)


def make_recipe(
    variables: Mapping[str, Variable],
    sources: Mapping[str, RowSource],
    selection: Selection,
    order: Order,
    destination: Destination,
    positions: Rows,
) -> Recipe:
    """What batches are made of.

    Raises:
        MismatchError: No row of the split can be shown by all variables, or no batch be filled.
    """
    columns, views = columns_of(variables, sources)
    offsets = sorted({offset for view in views.values() for offset in view.offsets})
    spans = row_spans(
        selection.anchors,
        chunk_rows=selection.anchor_rows,
        n_rows=selection.n_rows,
        offsets=offsets,
    )
    schedule = Schedule(
        spans, order.window_chunks, order.batch_size, order.remainder, order.seed, order.is_shuffled
    )
    _check_rows(schedule, columns, offsets)
    return Recipe(
        columns,
        views,
        schedule,
        selection.anchors,
        selection.anchor_rows,
        selection.n_split_rows,
        positions,
        batch_transform=destination.batch_transform,
    )


def _anchor(geometries: Mapping[str, ArrayGeometry], n_rows: int | None) -> ArrayGeometry:
    """The array whose chunks are shuffled: the one with the most rows per chunk."""
    lengths = {name: geometry.n_samples for name, geometry in geometries.items()}
    told = ", ".join(f"{name!r} {n:,}" for name, n in lengths.items())
    if n_rows is None and len(set(lengths.values())) > 1:
        raise MismatchError(
            f"the variables have different numbers of rows: {told}. Leave some out, or give "
            f"n_rows={min(lengths.values())} to use the first rows of each."
        )
    if n_rows is not None and not 0 <= n_rows <= min(lengths.values()):
        raise MismatchError(f"n_rows is {n_rows:,}, the variables have fewer: {told}.")
    anchor = max(geometries.values(), key=lambda geometry: geometry.sample_chunk_size)
    rows = anchor.n_samples if n_rows is None else n_rows
    return ArrayGeometry(anchor.name, (rows,), (anchor.sample_chunk_size,), anchor.dtype)


def _check_rows(schedule: Schedule, columns: tuple[Column, ...], offsets: list[int]) -> None:
    where = columns[0].source.location
    if schedule.n_rows == 0:
        raise MismatchError(
            f"no row of this split of {where} has all of its offsets {offsets} in the split. "
            "Give smaller shifts and windows, or a larger split."
        )
    if schedule.remainder == "drop" and schedule.n_rows < schedule.batch_size:
        raise MismatchError(
            f"this split of {where} has {schedule.n_rows:,} rows, fewer than one batch of "
            f"{schedule.batch_size:,}, so that all would be dropped. Give a smaller batch_size, "
            "or remainder='pad'."
        )
