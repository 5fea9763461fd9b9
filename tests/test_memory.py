from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from arrays import assert_same_bits, numbers, ramp, spec
from contracts import StoreContract

from jaxstore.stores.memory import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_location_is_memory() -> None:
    assert MemoryStore().location == "memory"


def test_a_view_shares_memory_and_keeps_its_extent_while_the_store_grows() -> None:
    store = MemoryStore()
    store.create(spec("x", (2, 4, 3), (2, 4, 3)))
    values = numbers((2, 4, 3))
    store.write("x", (0, 0, 0), values)
    view = store.view("x")
    assert np.shares_memory(view, store.view("x"))
    address = view.ctypes.data
    for stop in range(8, 4000, 400):
        store.write("x", (0, stop - 4, 0), values)
        store.resize("x", (2, stop, 3))
    assert view.ctypes.data == address
    assert_same_bits(np.ascontiguousarray(view), values)
    assert not np.shares_memory(view, store.view("x"))
    assert_same_bits(store.read("x", (slice(0, 2), slice(stop - 4, stop))), values)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no mremap")
def test_pages_are_enlarged_in_place_once_no_view_is_held() -> None:
    store = MemoryStore()
    store.create(spec("x", (1, 0), (1, 1024)))
    store.view("x")
    pages = store._arrays["x"].data._pages
    for first in range(0, 1 << 16, 1024):
        store.write("x", (0, first), ramp((1, 1024)))
    assert store._arrays["x"].data._pages is pages


def test_values_as_wide_as_the_room_but_beside_it_leave_fill_values() -> None:
    store = MemoryStore()
    store.create(spec("x", (2, 2), (2, 2)))
    store.write("x", (2, 2), ramp((2, 2)))
    store.resize("x", (4, 4))
    found = store.read("x")
    assert_same_bits(found[2:, 2:], ramp((2, 2)))
    assert np.isnan(found[:2]).all()
    assert np.isnan(found[:, :2]).all()


def test_growing_the_first_axis_keeps_a_view() -> None:
    store = MemoryStore()
    store.create(spec("x", (2, 4), (2, 4)))
    store.write("x", (0, 0), ramp((2, 4)))
    view = store.view("x")
    for chains in range(3, 20):
        store.write("x", (chains - 1, 0), ramp((1, 4)))
        store.resize("x", (chains, 4))
        assert_same_bits(store.read("x")[-1:], ramp((1, 4)))
    assert_same_bits(np.ascontiguousarray(view), ramp((2, 4)))
    assert_same_bits(store.read("x")[:2], ramp((2, 4)))


def test_reads_beside_a_writer_see_whole_values() -> None:
    store = MemoryStore()
    store.create(spec("x", (1, 1, 64), (1, 1, 64), "int64"))
    store.write("x", (0, 0, 0), np.zeros((1, 1, 64), "int64"))
    wrong: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found = store.read("x")
            if not np.array_equal(found[0, :, 0], np.arange(found.shape[1])):
                wrong.append(found.shape[1])

    reader = threading.Thread(target=read)
    reader.start()
    for draw in range(1, 3000):
        store.write("x", (0, draw, 0), np.full((1, 1, 64), draw))
        store.resize("x", (1, draw + 1, 64))
    done.set()
    reader.join()
    assert wrong == []
