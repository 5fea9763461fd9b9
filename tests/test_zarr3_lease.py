from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import obstore
import obstore.store
import pytest
import zarr
from arrays import assert_same_bits, ramp, spec

from jaxstore.errors import BusyError, FormatError
from jaxstore.stores import zarr3_lease
from jaxstore.stores.blobs import blobs_at
from jaxstore.stores.holder import Holder
from jaxstore.stores.zarr3 import ZarrStore

DEAD = 2**22 + 1  # above what Linux gives out


@pytest.fixture(params=["obstore", "zarr"])
def place(request: pytest.FixtureRequest) -> Any:
    return obstore.store.MemoryStore() if request.param == "obstore" else zarr.storage.MemoryStore()


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr3_lease, "LEASE_S", 0.2)


@pytest.fixture
def long_lease(monkeypatch: pytest.MonkeyPatch, short_lease: None) -> None:
    """So long that a test which waited for its end would be stopped."""
    monkeypatch.setattr(zarr3_lease, "LEASE_S", 10_000.0)
    monkeypatch.setattr(zarr3_lease, "_LOOKS", 1_000_000)


def started(place: Any, *names: str) -> ZarrStore:
    store = ZarrStore.new(place)
    for name in names or ("g/x",):
        store.create(spec(name, (1, 4), (1, 4)))
        store.write(name, (0, 0), ramp((1, 4)))
    store.commit({"draws": 4})
    return store


def writer_of(place: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(zarr.open_group(as_zarr(place), mode="r").attrs)
    return dict(found["jaxstore_writer"])


def as_zarr(place: Any) -> Any:
    return place if isinstance(place, zarr.abc.store.Store) else zarr.storage.ObjectStore(place)


def let_die(store: ZarrStore, **changes: Any) -> None:
    """Leave a store as a killed process does, by default one of this machine."""
    store._hold._say(  # type: ignore[union-attr]
        Holder(**{**Holder.of_this_process().to_json(), "claims_in": "g/x", "pid": DEAD, **changes})
    )


def everything(place: Any) -> dict[str, bytes | None]:
    blobs = blobs_at(place)
    return {key: blobs.get(key) for key in blobs.keys()}  # noqa: SIM118


class Beating:
    """A writer that commits until the end of a `with`."""

    def __init__(self, store: ZarrStore) -> None:
        self._store, self._end = store, threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def _beat(self) -> None:
        n = 0
        while not self._end.wait(0.01):
            self._store.commit({"draws": 4, "nonce": (n := n + 1)})

    def __enter__(self) -> ZarrStore:
        self._thread.start()
        return self._store

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_stores_on_objects_have_a_lease_and_files_none(place: Any, tmp_path: Any) -> None:
    assert ZarrStore.new(place).lease_s == 0.2
    with_files = ZarrStore.new(tmp_path)
    assert with_files.lease_s is with_files.reader().lease_s is None


# --- who may take a store ---


def test_a_released_store_is_taken_at_once(place: Any, long_lease: None) -> None:
    for end in ("close", "seal"):
        store = started(place) if end == "close" else ZarrStore.open(place, mode="r+")
        assert writer_of(place)["released"] is False
        getattr(store, end)()
        assert writer_of(place)["released"] is True
    ZarrStore.open(place, mode="r+").commit({"draws": 5})


def test_a_store_of_a_dead_process_is_taken_at_once(place: Any, long_lease: None) -> None:
    let_die(started(place))
    store = ZarrStore.open(place, mode="r+")
    assert store.committed() == {"draws": 4}
    store.commit({"draws": 5})
    assert writer_of(place)["claim"] == 1
    assert ZarrStore.open(place).committed() == {"draws": 5}


def test_a_living_writer_is_named_and_nothing_changes(place: Any, long_lease: None) -> None:
    with Beating(started(place)):
        since = writer_of(place)["since"]
        wanted = rf"is written by this process \(.*since {re.escape(since)}\. Close that writer"
        with pytest.raises(BusyError, match=wanted):
            ZarrStore.open(place, mode="r+")
    assert writer_of(place)["claim"] == 0
    assert set(everything(place)) == {"zarr.json", "g/zarr.json", "g/x/zarr.json", "g/x/c/0/0"}


def test_a_writer_of_another_machine_is_waited_for(place: Any) -> None:
    first = started(place)
    let_die(first, host="elsewhere", pid=1)
    began = time.monotonic()
    store = ZarrStore.open(place, mode="r+")
    assert time.monotonic() - began >= 0.2
    store.commit({"draws": 5})
    with pytest.raises(BusyError, match="was taken over by this process"):
        first.commit({"draws": 6})


def test_waiting_ends_when_the_writer_gives_the_store_back(place: Any, long_lease: None) -> None:
    first = started(place)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(ZarrStore.open, place, mode="r+")
        time.sleep(0.03)
        assert not opened.done()
        first.close()
        second = opened.result(timeout=10)
    second.commit({"draws": 5})
    assert ZarrStore.open(place).committed() == {"draws": 5}


def test_readers_wait_for_nobody(place: Any, long_lease: None) -> None:
    store = started(place)
    before = everything(place)
    assert ZarrStore.open(place).committed() == store.reader().committed() == {"draws": 4}
    assert everything(place) == before


# --- taking over ---


def test_a_zombie_is_refused_and_the_record_stays_the_new_writers(place: Any) -> None:
    zombie = started(place)
    store = ZarrStore.open(place, mode="r+")
    store.write("g/x", (0, 0), -ramp((1, 4)))
    store.commit({"draws": 3})
    before = everything(place)
    for change in (
        lambda: zombie.commit({"draws": 8}),
        lambda: zombie.commit({"draws": 9}),
        lambda: zombie.write("g/x", (0, 0), ramp((1, 4))),
        lambda: zombie.resize("g/x", (1, 8)),
        lambda: zombie.create(spec("y", (1, 4), (1, 4))),
        lambda: zombie.set_attrs({"a": 1}),
        lambda: zombie.put_blob("g/x", "checkpoint-0", [b"state"]),
        lambda: zombie.seal(),
    ):
        with pytest.raises(BusyError, match=r"taken over by this process.*end the other one"):
            change()
    zombie.close()
    assert everything(place) == before
    assert zombie.committed() == store.committed() == {"draws": 3}
    store.commit({"draws": 4})


@pytest.mark.parametrize("end", ["seal", "close", "attrs"])
def test_a_zombie_does_not_end_the_new_writers_store(place: Any, end: str) -> None:
    zombie = started(place)
    store = ZarrStore.open(place, mode="r+")
    store.commit({"draws": 3})
    before = everything(place)
    if end == "close":
        zombie.close()
    else:
        with pytest.raises(BusyError, match="taken over"):
            zombie.seal() if end == "seal" else zombie.set_attrs({"a": 1})
    assert everything(place) == before
    store.commit({"draws": 4})


def test_one_of_many_takers_wins(place: Any) -> None:
    started(place, "c/z", "a/x").close()  # claims lie under the array that was made first
    let_die(ZarrStore.open(place, mode="r+"), claim=1, claims_in="c/z")
    together, done = threading.Barrier(4), threading.Event()

    def take() -> ZarrStore | BusyError:
        together.wait()
        try:
            store = ZarrStore.open(place, mode="r+")
        except BusyError as error:
            return error
        while not done.wait(0.005):
            store.commit({"draws": 4, "nonce": time.monotonic_ns()})
        return store

    with ThreadPoolExecutor(4) as pool:
        takers = [pool.submit(take) for _ in range(4)]
        until = time.monotonic() + 20
        while sum(taker.done() for taker in takers) < 3 and time.monotonic() < until:
            time.sleep(0.005)
        done.set()
        found = [taker.result() for taker in takers]
    stores = [store for store in found if isinstance(store, ZarrStore)]
    assert len(stores) == 1
    assert sum("is written by this process" in str(error) for error in found) == 3
    assert writer_of(place)["claim"] == 2
    stores[0].commit({"draws": 5})
    assert [key for key in everything(place) if "claim" in key] == ["c/z/claim-1", "c/z/claim-2"]


def test_a_taker_that_died_at_its_claim_is_waited_for_and_passed(place: Any) -> None:
    let_die(started(place))
    blobs_at(place).put_new("g/x/claim-1", b"of a process that was killed right then")
    began = time.monotonic()
    store = ZarrStore.open(place, mode="r+")
    assert time.monotonic() - began >= 0.2
    store.commit({"draws": 5})
    assert writer_of(place)["claim"] == 2


def test_a_taker_that_slept_at_its_claim_goes_away(place: Any) -> None:
    let_die(started(place))
    slept = ZarrStore(blobs_at(place), holder=Holder.of_this_process(), compression=None,
                      checksum=True)  # fmt: skip
    lease: Any = slept._hold

    def sleep() -> None:
        del lease.check
        store.append(ZarrStore.open(place, mode="r+"))
        store[0].commit({"draws": 5})
        lease.check()

    store: list[ZarrStore] = []
    lease.check = sleep  # between its claim and saying so
    with pytest.raises(BusyError, match="taken over"):
        slept.commit({"draws": 9})
    assert ZarrStore.open(place).committed() == {"draws": 5}
    store[0].commit({"draws": 6})


def test_many_writers_in_turn_make_one_claim_each(place: Any, long_lease: None) -> None:
    started(place).close()
    for n in range(1, 4):
        store = ZarrStore.open(place, mode="r+")
        store.commit({"draws": n})
        assert writer_of(place)["claim"] == n
        store.close()


def test_sealing_and_going_on_makes_no_claim(place: Any, long_lease: None) -> None:
    store = started(place)
    for n in range(3):
        store.seal()
        store.write("g/x", (0, 0), ramp((1, 4)))
        store.commit({"draws": n})
        assert writer_of(place) == {**writer_of(place), "claim": 0, "released": False}
    assert not [key for key in everything(place) if "claim" in key]


def test_a_store_that_another_took_after_sealing_is_not_taken_back(place: Any) -> None:
    first = started(place)
    first.seal()
    with Beating(ZarrStore.open(place, mode="r+")), pytest.raises(BusyError, match="written by"):
        first.commit({"draws": 9})
    before = everything(place)
    with Beating(ZarrStore.open(place, mode="r+")), pytest.raises(BusyError, match="written by"):
        first.write("g/x", (0, 0), -ramp((1, 4)))
    assert before["g/x/c/0/0"] == everything(place)["g/x/c/0/0"]


def test_a_store_without_arrays_is_taken_without_a_claim(place: Any) -> None:
    zombie = ZarrStore.new(place)
    zombie.commit({"draws": 0})
    store = ZarrStore.open(place, mode="r+")
    store.commit({"draws": 1})
    for change in (
        lambda: zombie.commit({"draws": 2}),
        lambda: zombie.create(spec("y", (1, 4), (1, 4))),
    ):
        with pytest.raises(BusyError, match="taken over by this process"):
            change()
    assert ZarrStore.open(place).committed() == {"draws": 1}
    store.create(spec("x", (1, 4), (1, 4)))
    assert writer_of(place)["claims_in"] == "x"


def test_a_group_of_another_program_is_taken_by_a_claim(place: Any, long_lease: None) -> None:
    group = zarr.open_group(as_zarr(place))
    for name in ("b", "a"):
        group.create_array(name, shape=(4,), dtype="f4")[:] = 1
    ZarrStore.open(place, mode="r+").commit({"draws": 1})
    assert (writer_of(place)["claim"], writer_of(place)["claims_in"]) == (1, "a")
    assert_same_bits(ZarrStore.open(place).read("b"), ramp((4,)) * 0 + 1)


def test_zarr_and_xarray_do_not_see_claims(place: Any) -> None:
    xarray = pytest.importorskip("xarray")
    let_die(started(place))
    store = ZarrStore.open(place, mode="r+")
    assert "g/x/claim-1" in everything(place)
    for _ in range(2):  # live, then sealed; warnings are errors
        group = zarr.open_group(as_zarr(place), mode="r")
        assert [name for name, _ in group.members(max_depth=None)] == ["g", "g/x"]
        store.seal()
    tree = xarray.open_datatree(as_zarr(place), engine="zarr")
    assert_same_bits(tree["g/x"].values, ramp((1, 4)))
    tree.close()


# --- servers that do not do what is asked ---


def test_a_server_that_makes_an_object_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place, put = obstore.store.MemoryStore(), obstore.put
    started(place).close()
    before = everything(place)
    monkeypatch.setattr(obstore, "put", lambda *a, mode="overwrite", **k: put(*a, **k))
    with pytest.raises(FormatError, match=r"ignores `If-None-Match`.*Nothing was changed"):
        ZarrStore.open(place, mode="r+")
    assert everything(place) == before


def test_closing_works_when_the_server_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    store, failing = started(obstore.store.MemoryStore()), Mock(side_effect=ConnectionError)
    for call in ("get", "put"):
        monkeypatch.setattr(store._blobs, call, failing)
    store.close()
    assert failing.called
