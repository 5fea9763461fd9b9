from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.sources.geometry import ArrayGeometry


@st.composite
def geometries(draw: st.DrawFn) -> ArrayGeometry:
    shape = tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, 5)) for _ in shape)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return ArrayGeometry("x", shape, chunks, np.dtype("f4"), axis)


@given(geometries())
def test_the_chunks_hold_every_row_once_and_in_order(geometry: ArrayGeometry) -> None:
    rows = [row for c in range(geometry.n_chunks) for row in geometry.samples_in_chunk(c)]
    assert rows == list(range(geometry.n_samples))
    assert all(row in geometry.samples_in_chunk(geometry.chunk_of(row)) for row in rows)
    sizes = [len(geometry.samples_in_chunk(c)) for c in range(geometry.n_chunks)]
    assert all(size == geometry.sample_chunk_size for size in sizes[:-1])
    assert all(sizes)


@given(geometries())
def test_a_row_is_what_numpy_takes_along_the_axis(geometry: ArrayGeometry) -> None:
    array = np.empty(geometry.shape, geometry.dtype)
    rows = np.moveaxis(array, geometry.axis, 0)
    assert geometry.n_samples == len(rows)
    assert geometry.inner_shape == rows.shape[1:]
    assert geometry.nbytes == array.nbytes
    assert geometry.row_bytes == rows[:1].nbytes or not geometry.n_samples
    assert len(geometry.inner_chunks) == len(geometry.inner_shape)


def test_a_negative_axis_counts_from_the_end() -> None:
    geometry = ArrayGeometry("x", (7, 10, 3), (7, 4, 2), np.dtype("f4"), axis=-2)
    assert geometry == ArrayGeometry("x", (7, 10, 3), (7, 4, 2), np.dtype("f4"), axis=1)
    assert (geometry.inner_shape, geometry.inner_chunks) == ((7, 3), (7, 2))
    assert geometry.sample_chunk_size == 4


@pytest.mark.parametrize(
    ("shape", "chunks", "axis", "message"),
    [
        ((), (), 0, "one entry per axis"),
        ((4, 4), (4,), 0, "one entry per axis"),
        ((4,), (0,), 0, "must be >= 1"),
        ((4,), (2,), 1, "axis 1 is none"),
        ((4,), (2,), -2, "axis -2 is none"),
    ],
)
def test_what_does_not_go_together_is_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], axis: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"'x'.*{message}"):
        ArrayGeometry("x", shape, chunks, np.dtype("f4"), axis)


@pytest.mark.parametrize("row", [-1, 10])
def test_a_row_that_is_not_there_is_named(row: int) -> None:
    geometry = ArrayGeometry("x", (10,), (4,), np.dtype("f4"))
    with pytest.raises(IndexError, match=f"'x' has rows 0 to 9, not {row}"):
        geometry.chunk_of(row)


@pytest.mark.parametrize("chunk", [-1, 3])
def test_a_chunk_that_is_not_there_is_named(chunk: int) -> None:
    geometry = ArrayGeometry("x", (10,), (4,), np.dtype("f4"))
    with pytest.raises(IndexError, match=f"'x' has chunks 0 to 2, not {chunk}"):
        geometry.samples_in_chunk(chunk)
