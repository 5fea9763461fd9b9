from __future__ import annotations

import gc

import pytest
from contract_results import NAME, ResultContract, array, assert_filled, fill, made

from jaxstore.errors import BusyError, ExistsError, FormatError, TooLargeError
from jaxstore.stores.results import ResultPlace
from jaxstore.stores.results_memory import MemoryResults


class TestMemoryResults(ResultContract):
    notices_loss = False

    @pytest.fixture
    def place(self) -> ResultPlace:
        return MemoryResults()

    @pytest.fixture
    def other_place(self, place: ResultPlace) -> ResultPlace:
        return place


def test_an_owner_that_nobody_holds_any_more_is_in_nobodys_way() -> None:
    place = MemoryResults()
    group = made(place)
    fill(group, 1)
    with pytest.raises(BusyError, match="has an owner"):
        place.open(NAME, role="owner")
    del group
    gc.collect()
    again = place.open(NAME, role="owner")
    assert_filled(again, 1)


def test_no_array_lies_below_another_or_among_the_marks() -> None:
    group = made(MemoryResults(), array("a/b"))
    for taken in ("a", "a/b/c"):
        with pytest.raises(ExistsError, match=taken):
            group.create(array(taken))
    with pytest.raises(FormatError, match="_status"):
        group.create(array("_status/x"))
    assert group.names() == ["a/b"]


def test_what_is_larger_than_memory_is_refused_and_leaves_nothing() -> None:
    place = MemoryResults()
    with pytest.raises(TooLargeError, match="'x' in memory"):
        made(place, array("x", (1 << 50,), "u1"))
    assert list(place.manifests()) == []
