from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.stores.hdf5_chunks import bounded, chunks_of

AXES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5)), min_size=0, max_size=3
)


def test_a_region_is_cut_to_the_shape() -> None:
    assert bounded((slice(2, 9),), (4, 3), name="x") == (slice(2, 4), slice(0, 3))
    assert bounded((slice(6, 9),), (4,), name="x") == (slice(4, 4),)
    with pytest.raises(IndexError, match="'x': region .* has more axes"):
        bounded((slice(0, 1), slice(0, 1)), (4,), name="x")


@given(AXES)
def test_chunks_make_up_the_region_once_each_inside_itself(
    axes: list[tuple[int, int, int]],
) -> None:
    region = tuple(slice(a, a + n) for a, n, _ in axes)
    chunks = tuple(axis[2] for axis in axes)
    covered = np.zeros([part.stop for part in region], int)
    for index, part in chunks_of(region, chunks):
        covered[part] += 1
        for i, n, cut in zip(index, chunks, part, strict=True):
            assert i * n <= cut.start < cut.stop <= (i + 1) * n
    wanted = np.zeros_like(covered)
    wanted[region] = 1
    assert np.array_equal(covered, wanted)


def test_the_chunks_of_a_huge_region_come_one_by_one() -> None:
    found = chunks_of((slice(0, 2**45),), (1,))
    assert list(islice(found, 2)) == [((0,), (slice(0, 1),)), ((1,), (slice(1, 2),))]
