"""What the batches of a loader are, in a few words of JSON.

Owned here: what is the same in two loaders that give the same batches. The format on disk, its
codecs and its place are not: a copy of a data set gives the same batches.
"""

from __future__ import annotations

import json

import numpy as np

from jaxstore.fingerprint import of_bytes
from jaxstore.loading.recipe import Recipe
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.geometry import Array
from jaxstore.stores.base import Json


def identity_of(recipe: Recipe, n_rows: int) -> dict[str, Json]:
    """All that must be equal, the values of the arrays apart."""
    schedule = recipe.schedule
    views = [
        [label, recipe.columns[view.column].name, list(view.offsets), *_row_of(recipe, label)]
        for label, view in sorted(recipe.views.items())
    ]
    return {
        "seed": schedule.seed,
        "batch_size": schedule.batch_size,
        "window_chunks": schedule.window_chunks,
        "remainder": schedule.remainder,
        "shuffle": schedule.is_shuffled,
        "n_rows": n_rows,
        "anchor_rows": recipe.anchor_rows,
        "split": of_bytes(recipe.anchors.astype("<i8").tobytes()),
        "variables": of_bytes(json.dumps(views).encode()),
    }


def data_digest(recipe: Recipe) -> str:
    """Fingerprint of the first row of the split, as stored, in every array; reads their chunks."""
    spans = recipe.schedule.spans
    row = int(spans[spans[:, 1] > spans[:, 0]][0, 0])
    sources = {column.name: column.source for column in recipe.columns}
    parts = [_row_in(source, row) for _, source in sorted(sources.items())]
    return of_bytes(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))


def _row_in(source: RowSource, row: int) -> Array:
    geometry = source.geometry
    chunk = geometry.chunk_of(row)
    held = geometry.samples_in_chunk(chunk)
    rows = np.empty((len(held), *geometry.inner_shape), geometry.dtype)
    for index in source.stored_chunks(chunk):
        source.read(index, rows)
    found: Array = rows[row - held.start]
    return found


def _row_of(recipe: Recipe, label: str) -> tuple[list[int], str]:
    view = recipe.views[label]
    row = view.row(recipe.columns[view.column])
    return list(row.shape), row.dtype.name
