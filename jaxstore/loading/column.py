"""What a loader keeps of one stored array: its chunks as they are used, and who looks at them.

Owned here: how views and transforms of the same array become one column, so that each stored chunk
is read and decoded once however many look at it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from jaxstore.errors import MismatchError
from jaxstore.loading.buffers import Spec
from jaxstore.loading.views import Variable
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.geometry import Array

Convert = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Column:
    """One array, converted one way."""

    source: RowSource
    convert: Convert | None  # rows of a chunk as stored -> as kept
    row: Spec  # of a row as kept
    offsets: tuple[int, ...]  # that any view of it asks for, sorted

    @property
    def name(self) -> str:
        """Of the array."""
        return self.source.geometry.name

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk."""
        return self.source.geometry.sample_chunk_size

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk as kept."""
        return self.chunk_rows * self.row.nbytes

    @property
    def stored_chunk_bytes(self) -> int:
        """Bytes of a stored chunk, decoded."""
        return math.prod(self.source.geometry.chunks) * self.source.geometry.dtype.itemsize

    @property
    def reads_per_chunk(self) -> int:
        """Stored chunks beside one another along the axes of a row."""
        geometry = self.source.geometry
        sizes = zip(geometry.inner_shape, geometry.inner_chunks, strict=True)
        return math.prod(-(-n // chunk) for n, chunk in sizes)

    def chunks_of(self, rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " chunks"]:
        """Chunks that these rows need, in order."""
        found = [np.unique((rows + offset) // self.chunk_rows) for offset in self.offsets]
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))

    def most_chunks(self, anchor_rows: int, n_anchors: int) -> int:
        """Chunks that `n_anchors` chunks of the split need at most, wherever they lie."""
        if self.offsets == (0,) and anchor_rows % self.chunk_rows == 0:
            each = anchor_rows // self.chunk_rows
        elif self.offsets == (0,) and self.chunk_rows % anchor_rows == 0:
            each = 1
        else:
            reach = self.offsets[-1] - self.offsets[0]
            together = (anchor_rows + reach - 2) // self.chunk_rows + 2
            apart = len(self.offsets) * ((anchor_rows - 2) // self.chunk_rows + 2)
            each = min(together, apart)
        return min(each * n_anchors, self.source.geometry.n_chunks)


@dataclass(frozen=True, slots=True)
class View:
    """One array of a batch: rows of a column, shifted, stacked or as they are."""

    column: int
    offsets: tuple[int, ...]
    is_stacked: bool

    def row(self, column: Column) -> Spec:
        """Shape and dtype of a row as seen."""
        stack = (len(self.offsets),) if self.is_stacked else ()
        return Spec((*stack, *column.row.shape), column.row.dtype)


def columns_of(
    variables: Mapping[str, Variable], sources: Mapping[str, RowSource]
) -> tuple[tuple[Column, ...], dict[str, View]]:
    """The columns that variables need, and each variable as a view of one.

    Args:
        variables: By label.
        sources: By name of the array.
    """
    keys: list[tuple[Any, ...]] = []
    for variable in variables.values():
        key = _key(variable)
        if key not in keys:
            keys.append(key)
    columns = []
    for key in keys:
        using = [v for v in variables.values() if _key(v) == key]
        offsets = tuple(sorted({offset for v in using for offset in v.offsets}))
        columns.append(_column(using[0], sources[using[0].name], offsets))
    views = {
        label: View(keys.index(_key(v)), v.offsets, len(v.offsets) > 1)
        for label, v in variables.items()
    }
    return tuple(columns), views


def _key(variable: Variable) -> tuple[Any, ...]:
    dtype = None if variable.dtype is None else np.dtype(variable.dtype)
    return (variable.name, variable.axis, variable.transform, dtype)


def _column(variable: Variable, source: RowSource, offsets: tuple[int, ...]) -> Column:
    stored = Spec(source.geometry.inner_shape, source.geometry.dtype)
    if variable.transform is None and variable.dtype is None:
        return Column(source, None, stored, offsets)
    shown = _transformed(variable, stored, source)
    row = Spec(shown.shape, np.dtype(variable.dtype or shown.dtype))
    convert = _converter(variable, row, where=f"{variable.name!r} in {source.location}")
    return Column(source, convert, row, offsets)


def _transformed(variable: Variable, stored: Spec, source: RowSource) -> Spec:
    """What a transform makes of a row: as declared, or found out by a try on zeros."""
    if variable.transform is None:
        return stored
    if variable.output is not None:
        output: jax.ShapeDtypeStruct = variable.output
        return Spec(tuple(output.shape), np.dtype(output.dtype))
    where = f"the transform of {variable.name!r} in {source.location}"
    try:
        found = np.asarray(variable.transform(np.zeros((1, *stored.shape), stored.dtype)))
    except Exception as error:
        raise MismatchError(
            f"{where} failed on one row of zeros, {stored.shape} {stored.dtype}: {error!r}. "
            "Say what it makes of a row: output=jax.ShapeDtypeStruct(shape, dtype)."
        ) from error
    if found.shape[:1] != (1,):
        raise MismatchError(
            f"{where} makes {found.shape} of one row. It takes the rows of a chunk and must give "
            "as many, with rows on axis 0."
        )
    return Spec(found.shape[1:], found.dtype)


def _converter(variable: Variable, row: Spec, *, where: str) -> Convert:
    """Apply the transform and the cast of a variable to the rows of a chunk."""

    def convert(rows: Array) -> Array:
        found = rows if variable.transform is None else np.asarray(variable.transform(rows))
        if found.shape != (len(rows), *row.shape):
            raise MismatchError(
                f"the transform of {where} made {found.shape} of {len(rows)} rows, expected "
                f"{(len(rows), *row.shape)}. It must give a row of one shape for each row."
            )
        return found

    return convert


def kept_bytes(columns: Sequence[Column], n_chunks: Sequence[int]) -> int:
    """Bytes of so many chunks of each column."""
    return sum(n * column.chunk_bytes for n, column in zip(n_chunks, columns, strict=True))
