from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.processing.units import Channels, Sizes, Units, deal

counts = st.integers(1, 60)


@given(counts, counts, st.integers(1, 5))
def test_units_hold_every_item_once_in_every_block(n_items, unit_items, n_blocks):
    units = Units(n_items, unit_items, n_blocks)
    seen = [(item, units.block(u)) for u in range(units.n_units) for item in units.items(u)]
    assert sorted(seen) == [(item, block) for item in range(n_items) for block in range(n_blocks)]
    assert units.n_items_of(range(units.n_units)) == n_items
    # They begin with an item at a chunk, so that no two share one.
    assert all(units.items(u).start % unit_items == 0 for u in range(units.n_units))


@given(counts, counts, counts)
def test_more_items_only_add_units(n_items, more, unit_items):
    old, new = Units(n_items, unit_items, 2), Units(n_items + more, unit_items, 2)
    whole = [u for u in range(old.n_units) if len(old.items(u)) == unit_items]
    assert [new.items(u) for u in whole] == [old.items(u) for u in whole]


@given(counts, counts)
def test_blocks_hold_every_channel_once(n, block):
    if block > n:
        with pytest.raises(
            ValueError, match=rf"chan_per_worker must be in \[1, {n}\], got {block}"
        ):
            Channels(0, n, block)
        return
    channels = Channels(1, n, block)
    parts = [channels.within(b) for b in range(channels.n_blocks)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    assert channels.resized((5, n, 2), 3) == (5, 3, 2)


@given(st.sets(counts).map(sorted), st.integers(1, 7))
def test_units_are_dealt_once_and_evenly(todo, size):
    shares = [deal(todo, rank, size) for rank in range(size)]
    assert sorted(unit for share in shares for unit in share) == todo
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(counts, counts, counts)
def test_sizes_survive_json(batch_size, n_items, unit_items):
    sizes = Sizes(batch_size, Units(n_items, unit_items, 3))
    assert Sizes.from_json(json.loads(json.dumps(sizes.to_json()))) == sizes


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_there_are_no_units_of_nothing(wrong):
    with pytest.raises(ValueError, match="there must be items, units and blocks"):
        Units(*wrong)
