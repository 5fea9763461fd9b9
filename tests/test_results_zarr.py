from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import pytest
import zarr
import zarr.storage
from contract_results import (
    MANIFEST,
    NAME,
    UNITS,
    ResultContract,
    array,
    assert_filled,
    content,
    fill,
    made,
    regions,
    values,
)
from programs import results_until_killed as program
from zarr_places import every_file

from jaxstore.errors import BusyError, ExistsError, FormatError, MissingError
from jaxstore.stores import blobs, results_zarr, results_zarr_marks, zarr3_lease
from jaxstore.stores.blobs import FileBlobs
from jaxstore.stores.results import DONE, TODO, ResultGroup, ResultPlace
from jaxstore.stores.results_zarr import ZarrResults
from jaxstore.stores.zarr3 import ZarrStore

LEASE_S = 3.0


class TestZarrResults(ResultContract):
    @pytest.fixture
    def place(self, tmp_path: Path) -> ResultPlace:
        return ZarrResults(tmp_path / "results.zarr")

    @pytest.fixture
    def other_place(self, tmp_path: Path) -> ResultPlace:
        return ZarrResults(tmp_path / "results.zarr")


class TestZarrResultsInAnObjectStore(ResultContract):
    @pytest.fixture(autouse=True)
    def lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zarr3_lease, "LEASE_S", LEASE_S)

    @pytest.fixture
    def store(self) -> Any:
        return obstore.store.MemoryStore()

    @pytest.fixture
    def place(self, store: Any) -> ResultPlace:
        return ZarrResults(store, group="some/results")

    @pytest.fixture
    def other_place(self, store: Any) -> ResultPlace:
        return ZarrResults(zarr.storage.ObjectStore(store), group="some/results")

    def assert_owned(self, group: ResultGroup, place: ResultPlace) -> None:
        with keeping(group):
            super().assert_owned(group, place)


@contextlib.contextmanager
def keeping(group: ResultGroup) -> Iterator[None]:
    """The owner of a group lives, and says so."""
    is_over = threading.Event()

    def keep() -> None:
        while not is_over.wait(0.02):
            group.keep()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


# --- the place ---


def test_what_a_user_has_in_the_place_stays_as_it_is(tmp_path: Path) -> None:
    root = zarr.create_group(tmp_path / "data.zarr", attributes={"by": "me"})
    root.create_array("raw", shape=(40, 3), chunks=(7, 3), dtype="f4")[:] = 1.5
    root.create_group("more").create_array("x", shape=(2,), dtype="i8")
    (tmp_path / "data.zarr" / "notes.txt").write_text("mine")
    before = every_file(tmp_path)
    place = ZarrResults(tmp_path / "data.zarr")
    assert list(place.manifests()) == []
    group = made(place)
    fill(group, *range(UNITS))
    group.join(regions)
    group.close()
    for taken in ("raw", "more", "notes.txt"):
        with pytest.raises(ExistsError, match=taken):
            made(place, name=taken)
    after = every_file(tmp_path)
    assert {path: after[path] for path in before} == before
    assert all(f"/{NAME}/" in path for path in set(after) - set(before))


def test_a_new_place_is_a_zarr_group_and_so_are_those_on_the_way(tmp_path: Path) -> None:
    made(ZarrResults(tmp_path / "a" / "r.zarr", group="x/y")).close()
    assert [name for name, _ in zarr.open_group(tmp_path / "a" / "r.zarr").members(None)][:3] == [
        *("x", "x/y", f"x/y/{NAME}")
    ]
    made(ZarrResults(zarr.open_group(tmp_path / "a" / "r.zarr/x")), name="b_000").close()
    assert [name for name, _ in ZarrResults(tmp_path / "a/r.zarr/x").manifests()] == ["b_000"]


@pytest.mark.parametrize("kind", ["zarr", "group", "local", "obstore", "url"])
def test_whatever_zarr_writes_to_is_a_place(tmp_path: Path, kind: str) -> None:
    memory = zarr.storage.MemoryStore()
    where: Any = {
        "zarr": lambda: memory,
        "group": lambda: zarr.create_group(memory, path="a/b"),
        "local": lambda: zarr.storage.LocalStore(tmp_path),
        "obstore": lambda: obstore.store.LocalStore(tmp_path),
        "url": tmp_path.as_uri,
    }[kind]()
    group = made(ZarrResults(where, group="g"), array("amp"), array("b/c"))
    fill(group, 0)
    group.share()
    member = ZarrResults(where, group="g").open(NAME, role="member", writer="rank-1")
    fill(member, 4)
    member.close()
    group.join(regions)
    group.close()
    assert_filled(ZarrResults(where, group="g").open(NAME), 0, 4)
    root = where if kind == "group" else zarr.open_group(memory if kind == "zarr" else tmp_path)
    np.testing.assert_array_equal(root[f"g/{NAME}/amp"][8:], values(4))
    assert [name for name, _ in ZarrResults(where, group="g").manifests()] == [NAME]


def test_looking_makes_nothing(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path / "r.zarr", group="x")
    assert list(place.manifests()) == []
    assert every_file(tmp_path) == {}
    made(place).close()
    before = every_file(tmp_path)
    list(place.manifests())
    content(place.open(NAME))
    assert every_file(tmp_path) == before


@pytest.mark.parametrize("document", [".zgroup", ".zarray"])
def test_zarr_v2_is_no_place(tmp_path: Path, document: str) -> None:
    (tmp_path / document).write_text("{}")
    place = ZarrResults(tmp_path)
    with pytest.raises(FormatError, match=r"Zarr v2.*Name another place"):
        made(place)
    assert list(place.manifests()) == []
    assert set(every_file(tmp_path)) == {str(tmp_path / document)}


def test_an_array_is_no_place(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x", shape=(2,), dtype="f4")
    with pytest.raises(ExistsError, match=r"is an array, so it cannot hold the result"):
        made(ZarrResults(tmp_path, group="x/y"))


def test_consolidated_metadata_stay_and_a_warning_tells_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zarr.create_group(tmp_path).create_array("x", shape=(2,), dtype="f4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(tmp_path))
    before = (tmp_path / "zarr.json").read_bytes()
    with caplog.at_level(logging.WARNING, "jaxstore"):
        made(ZarrResults(tmp_path)).close()
    assert NAME in caplog.text
    assert "use_consolidated=False" in caplog.text
    assert (tmp_path / "zarr.json").read_bytes() == before


def test_hundreds_of_results_are_listed_at_once(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    made(place, name="a_000").close()
    document = (tmp_path / "a_000" / "zarr.json").read_bytes()
    for n in range(1, 300):
        (tmp_path / f"a_{n:03d}").mkdir()
        (tmp_path / f"a_{n:03d}" / "zarr.json").write_bytes(document)
    start = time.perf_counter()
    found = list(place.manifests())
    took_s = time.perf_counter() - start
    assert found == [(f"a_{n:03d}", MANIFEST) for n in range(300)]
    assert took_s < 0.5


def test_a_damaged_result_is_told_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = ZarrResults(tmp_path)
    for name in ("a_000", "a_001"):
        made(place, name=name).close()
    path = tmp_path / "a_000" / "zarr.json"
    path.write_bytes(path.read_bytes().replace(b"width", b"wodth"))
    with caplog.at_level(logging.WARNING, "jaxstore"):
        assert [name for name, _ in place.manifests()] == ["a_001"]
    assert "a_000" in caplog.text
    assert "damaged" in caplog.text
    with pytest.raises(FormatError, match=r"a_000.*damaged"):
        place.open("a_000", role="owner")


def test_documents_of_others_are_no_results_and_disturb_nobody(tmp_path: Path) -> None:
    for name, text in (("a", "no JSON"), ("b", '{"zarr_format": 9}'), ("c", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text(text)
    place = ZarrResults(tmp_path)
    made(place).close()
    assert [name for name, _ in place.manifests()] == [NAME]
    for name in "abc":
        with pytest.raises(MissingError, match=NAME):
            place.open(name)


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_folder_that_holds_the_name_already_is_left_alone(
    tmp_path: Path, *, is_folder: bool
) -> None:
    mine = tmp_path / NAME / "mine" if is_folder else tmp_path / NAME
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ExistsError, match=NAME):
        made(ZarrResults(tmp_path))
    assert set(every_file(tmp_path)) == {str(mine)}


def test_a_file_in_the_place_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(MissingError, match=r"notes\.txt"):
        ZarrResults(tmp_path).open("notes.txt")


def test_a_result_is_made_whole_or_is_none_wherever_its_creator_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ZarrResults(tmp_path)
    n_puts, n_whole = 0, 0
    while not n_whole:
        with monkeypatch.context() as patch:
            patch.setattr(results_zarr, "remove_all", lambda blobs: None)  # who is dead cleans not
            stop_at_put(patch, n_puts)
            with contextlib.suppress(KeyboardInterrupt):
                made(place, array("a/b"), array("amp"), name=f"a_{n_puts:03d}").close()
        for name, manifest in place.manifests():
            assert manifest == MANIFEST
            assert place.open(name).names() == ["a/b", "amp"]
            assert place.open(name).marks().tolist() == [TODO] * UNITS
            n_whole += 1
        n_puts += 1
    assert n_puts > 5
    with pytest.raises(ExistsError, match="a_003"):
        made(place, name="a_003")
    with pytest.raises(MissingError, match="a_003"):
        place.open("a_003", role="owner")


def stop_at_put(patch: pytest.MonkeyPatch, n_puts: int) -> None:
    """Let as many files be put, and stop the process, as it were, before the next."""
    put, left = FileBlobs.put, iter(range(n_puts))

    def counted(blobs: FileBlobs, key: str, parts: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        put(blobs, key, parts)

    patch.setattr(FileBlobs, "put", counted)


def test_a_full_disk_is_told_and_leaves_no_half_made_result(disk: Path) -> None:
    place = ZarrResults(disk / "r.zarr")
    made(place, name="a_000").close()
    with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - 3 * 4096)
    with pytest.raises(OSError, match="No space left") as caught:
        made(place, name="a_001")
    assert caught.value.errno == errno.ENOSPC
    assert sorted(os.listdir(disk / "r.zarr")) == ["a_000", "zarr.json"]
    (disk / "ballast").unlink()
    assert [name for name, _ in place.manifests()] == ["a_000"]
    made(place, name="a_001").close()


# --- others' readers ---


def test_zarr_and_xarray_open_it_while_it_runs_and_at_the_end(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    place = ZarrResults(tmp_path / "r.zarr", group="g")
    group = made(place, array("amp"), array("b/c"))
    group.share()
    member = place.open(NAME, role="member", writer="rank-1")
    fill(member, 3)

    def look(*, consolidated: bool) -> None:
        opened = xarray.open_zarr(tmp_path / "r.zarr" / "g" / NAME, consolidated=consolidated)
        with opened as found:
            assert found["amp"].dims == ("amp-0", "amp-1")
            np.testing.assert_array_equal(found["amp"][6:8], values(3))
        found = zarr.open_group(tmp_path / "r.zarr", mode="r")[f"g/{NAME}"]
        assert {"amp", "b", "b/c", "_status"} <= {name for name, _ in found.members(None)}

    look(consolidated=False)
    member.close()
    group.join(regions)
    look(consolidated=False)
    group.close()
    look(consolidated=True)
    again = place.open(NAME, role="owner")
    again.create(array("late"))
    look(consolidated=False)
    again.close()
    look(consolidated=True)
    assert "late" in zarr.open_group(tmp_path / "r.zarr/g" / NAME, mode="r")
    assert_filled(place.open(NAME), 3)


# --- marks ---


def test_old_arrays_of_marks_are_removed_once_they_are_one(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    group = made(place)
    group.share()
    for writer in ("a", "b"):
        place.open(NAME, role="member", writer=writer).close()
    assert len(os.listdir(tmp_path / NAME / "_status")) == 4
    group.join(regions)
    assert len(os.listdir(tmp_path / NAME / "_status")) == 2


def test_marks_are_the_old_or_the_new_ones_wherever_replacing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ZarrResults(tmp_path)
    group = made(place)
    fill(group, 0, 1)
    new = np.array([TODO, TODO, DONE, TODO, DONE], np.uint8)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results_zarr_marks.ZarrMarks, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            group.set_marks(np.full(UNITS, DONE, np.uint8))
    assert place.open(NAME).marks().tolist() == [DONE, DONE, TODO, TODO, TODO]
    group.close()
    again = place.open(NAME, role="owner")
    with monkeypatch.context() as patch:
        remove = results_zarr_marks.remove_all
        n_done = len([name for name in os.listdir(tmp_path / NAME / "_status") if name[3] == "1"])
        calls = iter([remove] * n_done)
        patch.setattr(results_zarr_marks, "remove_all", lambda b: next(calls, killed)(b))
        with pytest.raises(KeyboardInterrupt):
            again.set_marks(new)
    assert place.open(NAME).marks().tolist() == new.tolist()
    again.close()
    last = place.open(NAME, role="owner")
    assert last.marks().tolist() == new.tolist()
    last.close()


def test_marks_that_are_replaced_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ZarrResults(tmp_path)
    group = made(place)
    fill(group, 1)
    group.share()
    member = place.open(NAME, role="member", writer="rank-1")
    fill(member, 2)
    reader = place.open(NAME)
    read, first = ZarrStore.read, iter([1])

    def read_late(store: ZarrStore, name: str, *args: Any, **kwargs: Any) -> Any:
        if next(first, None):
            group.join(regions)
        return read(store, name, *args, **kwargs)

    monkeypatch.setattr(ZarrStore, "read", read_late)
    assert_filled(reader, 1, 2)
    group.close()


def test_marks_of_a_writer_that_is_only_beginning_are_none(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    group = made(place)
    fill(group, 1)
    (tmp_path / NAME / "_status" / "0000-rank-1-12345678").mkdir()
    assert_filled(place.open(NAME), 1)
    group.close()


def test_durable_marks_come_after_their_data_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, str]] = []
    put, sync = FileBlobs.put, blobs.sync_folder

    def noted_put(self: FileBlobs, key: str, parts: Any) -> None:
        put(self, key, parts)
        events.append(("put", os.path.dirname(key)))

    def noted_sync(folder: str) -> None:
        sync(folder)
        events.append(("sync", os.path.relpath(folder, tmp_path / NAME)))

    monkeypatch.setattr(FileBlobs, "put", noted_put)
    monkeypatch.setattr(blobs, "sync_folder", noted_sync)
    group = made(ZarrResults(tmp_path, durable=True))
    events.clear()
    fill(group, 3)
    data = "amp/c/3"
    (marks,) = {where for what, where in events if what == "put"} - {data}
    order = [events.index(event) for event in (("put", data), ("sync", data), ("put", marks))]
    assert order == sorted(order)
    assert events.index(("put", marks)) < len(events) - 1 - events[::-1].index(("sync", marks))
    group.close()


def test_marks_of_who_was_left_behind_count_no_more(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    group = made(place)
    member = place.open(NAME, role="member", writer="rank-1")
    fill(member, 1)
    group.join(regions)
    member.mark([2], DONE)  # late: its owner lives, so that nobody told it
    assert_filled(group, 1)
    group.close()


def test_marks_that_are_gone_or_damaged_are_told(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    made(place).close()
    (array_path,) = (tmp_path / NAME / "_status").glob("*-owner-*")
    chunk = array_path / "c" / "0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FormatError, match=r"_status.*damaged"):
        place.open(NAME).marks()
    for path in (chunk, array_path / "zarr.json"):
        path.unlink()
    with pytest.raises(FormatError, match="marks are gone"):
        place.open(NAME).marks()


# --- several processes ---

OWN = """
import sys
from contract_results import fill, made
from jaxstore.stores.results_zarr import ZarrResults
group = made(ZarrResults(sys.argv[1]), name=sys.argv[2])
fill(group, 0)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def owning(path: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that owns a result until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", OWN, str(path), name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_two_processes_fill_two_results_of_a_place_and_never_one(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    with owning(tmp_path, "a_000") as process:
        mine = made(place, name="a_001")
        fill(mine, 2)
        before = every_file(tmp_path)
        with pytest.raises(BusyError, match=rf"a_000 is written by process {process.pid}"):
            place.open("a_000", role="owner")
        assert every_file(tmp_path) == before
        assert_filled(place.open("a_000"), 0)
        member = place.open("a_000", role="member", writer="rank-1")
        fill(member, 1)
        process.kill()
        process.wait()
        fill(member, 2)
        theirs = place.open("a_000", role="owner")
        for late in (lambda: member.mark([3], DONE), member.keep):
            with pytest.raises(BusyError, match="taken over by another writer"):
                late()
        theirs.join(regions)
        theirs.close()
        mine.close()
    assert_filled(place.open("a_000"), 0, 1, 2)
    assert_filled(place.open("a_001"), 2)


def test_a_result_without_an_owner_takes_no_members(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    made(place).close()
    before = every_file(tmp_path)
    with pytest.raises(BusyError, match="no owner to write beside"):
        place.open(NAME, role="member", writer="rank-1")
    assert every_file(tmp_path) == before


def test_what_was_marked_before_a_kill_is_done_and_right(tmp_path: Path) -> None:
    place = ZarrResults(tmp_path)
    made(place, array("amp", (program.N_UNITS * 2, 3)), n=program.N_UNITS).close()
    ended = subprocess.run(
        [sys.executable, program.__file__, str(tmp_path), "10", "5"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told: set[int] = set()
    turns = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(turns) == 10
    for turn in turns:
        assert not told & set(turn["told"]), "a unit that was marked was computed again"
        told |= set(turn["told"])
        assert told <= set(turn["done"])
        assert turn["wrong"] == []
        assert turn["half_made"] == []
    last = place.open(NAME, role="owner")
    assert told <= set(np.flatnonzero(last.marks() == DONE))
    last.close()


# --- object stores ---


def test_results_in_s3(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr3_lease, "LEASE_S", 1.0)
    url = f"s3://{s3_bucket}/r.zarr"
    group = made(ZarrResults(url, group="g"), array("amp"), array("b/c"))
    fill(group, 0)
    place = ZarrResults(f"{url}/g")
    group.share()
    member = place.open(NAME, role="member", writer="rank-1")
    fill(member, 1)
    # The owner is silent for longer than a lease: another takes over.
    mine = place.open(NAME, role="owner")
    for late in (group, member):
        with pytest.raises(BusyError, match="taken over"):
            fill(late, 2)
    with pytest.raises(BusyError, match="taken over"):
        group.set_manifest({})
    member.close()
    group.close()
    mine.join(regions)
    fill(mine, 3)
    mine.close()
    assert list(place.manifests()) == [(NAME, MANIFEST)]
    assert_filled(place.open(NAME), 0, 1, 3)
    with pytest.raises(ExistsError, match=NAME):
        made(place)
    assert place.location == f"{url}/g"


def test_an_owner_in_an_object_store_renews_its_lease_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = obstore.store.MemoryStore()
    group = made(ZarrResults(store))
    key = f"{NAME}/zarr.json"
    before = bytes(obstore.get(store, key).bytes())
    group.keep()
    assert bytes(obstore.get(store, key).bytes()) == before
    monkeypatch.setattr(zarr3_lease, "LEASE_S", 0.0)
    for _ in range(2):
        group.keep()
        after = bytes(obstore.get(store, key).bytes())
        assert after != before
        before = after
    group.close()
