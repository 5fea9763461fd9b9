from __future__ import annotations

import asyncio
from collections.abc import Iterator

import obstore.store
import pytest
import zarr.storage
from arrays import assert_same_bits, ramp, spec

from jaxstore.errors import FormatError
from jaxstore.stores.blobs import Blobs, blobs_at
from jaxstore.stores.blobs_ahead import AT_ONCE, fetch_ahead
from jaxstore.stores.zarr3 import ZarrStore


def test_so_many_are_fetched_at_once_and_come_in_order() -> None:
    under_way, most, is_full = 0, 0, asyncio.Event()

    async def fetch(key: str) -> str:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == AT_ONCE:
            is_full.set()
        await is_full.wait()
        under_way -= 1
        return key

    keys = [str(i) for i in range(3 * AT_ONCE)]
    assert list(fetch_ahead(keys, fetch)) == keys
    assert most == AT_ONCE


def test_keys_are_taken_no_further_than_is_fetched() -> None:
    taken: list[str] = []

    def keys() -> Iterator[str]:
        for i in range(10**9):
            taken.append(str(i))
            yield str(i)

    async def fetch(key: str) -> str:
        return key

    found = fetch_ahead(keys(), fetch)
    assert next(found) == "0"
    found.close()  # type: ignore[attr-defined]
    assert len(taken) == AT_ONCE


def test_an_error_comes_where_its_answer_is_due() -> None:
    async def fetch(key: str) -> str:
        if key == "2":
            raise OSError("gone")
        return key

    found = fetch_ahead("0123", fetch)
    assert [next(found), next(found)] == ["0", "1"]
    with pytest.raises(OSError, match="gone"):
        next(found)


@pytest.fixture(params=["obstore", "zarr", "files"])
def blobs(request: pytest.FixtureRequest, tmp_path: object) -> Blobs:
    memory = {"obstore": obstore.store.MemoryStore, "zarr": zarr.storage.MemoryStore}
    where = memory[request.param]() if request.param in memory else tmp_path
    return blobs_at(where)


def test_objects_come_in_order_absent_ones_as_none_and_large_ones_as_errors(blobs: Blobs) -> None:
    for i in range(40):
        if i % 7:
            blobs.put(f"x/{i}", [bytes([i]) * (9 if i == 30 else 3)])
    found = list(blobs.get_many((f"x/{i}" for i in range(40)), 8))
    assert isinstance(found[30], FormatError)
    assert "'x/30' in" in str(found[30])
    assert "has 9 bytes, it should have 8 at most" in str(found[30])
    wanted = [bytes([i]) * 3 if i % 7 else None for i in range(40)]
    assert [*found[:30], *found[31:]] == [*wanted[:30], *wanted[31:]]


def test_chunks_are_read_inside_a_running_loop() -> None:
    store = ZarrStore.new(obstore.store.MemoryStore())
    store.create(spec("x", (1, 80), (1, 2)))
    store.write("x", (0, 0), ramp((1, 80)))

    async def read() -> None:
        assert_same_bits(store.read("x"), ramp((1, 80)))

    asyncio.run(read())
