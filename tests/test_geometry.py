from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.stores.geometry import ChunkRegion, chunk_regions

AXES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 5)), min_size=0, max_size=3
)


def test_a_region_inside_one_chunk_is_one_part() -> None:
    assert list(chunk_regions((5, 0), (2, 3), (4, 3))) == [
        ChunkRegion((1, 0), (slice(1, 3), slice(0, 3)), (slice(0, 2), slice(0, 3)), is_whole=False)
    ]


def test_a_short_last_chunk_is_not_whole() -> None:
    parts = list(chunk_regions((0,), (6,), (4,)))
    assert [part.is_whole for part in parts] == [True, False]


def test_a_scalar_is_one_whole_chunk() -> None:
    assert list(chunk_regions((), (), ())) == [ChunkRegion((), (), (), is_whole=True)]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_an_empty_region_touches_no_chunk(shape: tuple[int, ...]) -> None:
    assert list(chunk_regions((5,) * len(shape), shape, (4,) * len(shape))) == []


def test_axes_must_agree() -> None:
    with pytest.raises(ValueError, match="longer"):
        list(chunk_regions((0,), (3, 3), (4, 4)))


@given(AXES)
def test_every_element_is_covered_once_where_it_belongs(axes: list[tuple[int, int, int]]) -> None:
    start, shape, chunks = (tuple(axis[i] for axis in axes) for i in range(3))
    values = np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape)
    extent = tuple(a + n + c for a, n, c in axes)
    written = np.zeros(extent, int)
    indices = []
    for part in chunk_regions(start, shape, chunks):
        where = tuple(
            slice(i * c + cut.start, i * c + cut.stop)
            for i, c, cut in zip(part.index, chunks, part.in_chunk, strict=True)
        )
        assert not written[where].any()
        written[where] = values[part.in_values]
        covered = tuple(cut.stop - cut.start for cut in part.in_chunk)
        assert part.is_whole == (covered == chunks)
        indices.append(part.index)
    wanted = np.zeros(extent, int)
    wanted[tuple(slice(a, a + n) for a, n, _ in axes)] = values
    assert np.array_equal(written, wanted)
    assert indices == sorted(set(indices))
