from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.processing.selection import select_items

N = 12
indices = st.lists(st.integers(-N, N - 1), min_size=1, max_size=30)
slices = st.slices(N).filter(lambda part: len(range(*part.indices(N))))
masks = st.lists(st.booleans(), min_size=N, max_size=N).filter(any).map(np.array)


@given(indices | slices | masks | indices.map(np.array))
def test_a_selection_is_what_numpy_would_take(select):
    found = select_items(select, N)
    wanted = np.arange(N)[select]
    assert found.n_items == len(wanted)
    assert np.array_equal(found.items(0, found.n_items), wanted)
    assert np.array_equal(found.items(1, 3), wanted[1:3])


@given(indices, indices)
def test_digests_are_equal_exactly_for_equal_items(one, other):
    a, b = select_items(one, N), select_items(other, N)
    same = np.array_equal(a.items(0, a.n_items), b.items(0, b.n_items))
    assert (a.digest == b.digest) == same


@pytest.mark.parametrize("select", [None, slice(None), range(N), list(range(N)), np.ones(N, bool)])
def test_all_items_in_their_order_are_no_selection(select):
    found = select_items(select, N)
    assert found.indices is None
    assert found.digest is None
    assert np.array_equal(found.items(2, 5), [2, 3, 4])
