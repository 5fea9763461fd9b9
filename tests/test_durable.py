from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import obstore.store
import pytest
from arrays import ramp, spec

from jaxstore.stores.location import create_store, open_store
from jaxstore.stores.zarr3 import ZarrStore


class Event(NamedTuple):
    what: str  # "sync" or "rename"
    path: str  # of a rename, the new one


class Disk:
    """What the system was asked for, in order; it is asked all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        fsync, replace = os.fsync, os.replace

        def record_sync(file: int) -> None:
            fsync(file)
            self.events.append(Event("sync", os.readlink(f"/proc/self/fd/{file}")))

        def record_rename(old: Any, new: Any) -> None:
            assert Event("sync", str(old)) in self.events or not self.is_durable, old
            replace(old, new)
            self.events.append(Event("rename", str(new)))

        self.is_durable = True
        monkeypatch.setattr(os, "fsync", record_sync)
        monkeypatch.setattr(os, "replace", record_rename)

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events


@pytest.fixture
def disk_events(monkeypatch: pytest.MonkeyPatch) -> Disk:
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no way here to tell the path of a descriptor")
    return Disk(monkeypatch)


def check_commit(events: list[Event], root: Path) -> list[str]:
    """Hold the events of a commit against the order they must have; the folders it synced."""
    record = Event("rename", f"{root}/zarr.json")
    assert events.count(record) == 1
    at = events.index(record)
    assert events[at - 1].what == "sync"  # of the record's own bytes
    assert events[at - 1].path.startswith(f"{root}/zarr.json.")
    assert events[at + 1 :] == [Event("sync", str(root))]
    folders = [event.path for event in events[: at - 1]]
    assert {event.what for event in events[: at - 1]} <= {"sync"}
    assert len(set(folders)) == len(folders)
    return folders


def test_a_commit_waits_for_everything_before_it(tmp_path: Path, disk_events: Disk) -> None:
    root = tmp_path / "new" / "folders" / "run.zarr"
    store = ZarrStore.new(root, durable=True)
    store.create(spec("g/x", (2, 0), (1, 4)))
    store.write("g/x", (0, 0), ramp((2, 8)))
    store.put_blob("g/x", "checkpoint-0", [b"state"])
    store.resize("g/x", (2, 8))
    before = disk_events.take()
    renamed = {os.path.dirname(event.path) for event in before if event.what == "rename"}
    store.commit({"draws": 8})
    synced = check_commit(disk_events.take(), root)
    x = f"{root}/g/x"
    assert renamed == {f"{root}/g", x, f"{x}/c/0", f"{x}/c/1"}  # the root document was linked
    above = {str(tmp_path), f"{tmp_path}/new", f"{tmp_path}/new/folders"}
    assert set(synced) == renamed | {f"{x}/c", str(root)} | above
    assert all(synced.index(f) < synced.index(os.path.dirname(f)) for f in renamed - {str(root)})


def test_a_commit_syncs_only_what_changed(tmp_path: Path, disk_events: Disk) -> None:
    store = ZarrStore.new(tmp_path / "a", durable=True)
    for name in ("x", "y"):
        store.create(spec(name, (1, 0), (1, 4)))
        store.write(name, (0, 0), ramp((1, 4)))
    store.commit({"draws": 4})
    disk_events.take()
    store.resize("x", (1, 12))
    assert [e.what for e in disk_events.take()] == ["sync", "rename"]
    store.write("x", (0, 4), ramp((1, 8)))  # two chunks in one folder
    assert [e.what for e in disk_events.take()] == ["sync", "rename"] * 2
    store.commit({"draws": 12})
    assert check_commit(disk_events.take(), tmp_path / "a") == [
        *(f"{tmp_path}/a/x/c/0", f"{tmp_path}/a/x")
    ]
    store.commit({"draws": 12})
    assert check_commit(disk_events.take(), tmp_path / "a") == []
    store.resize("x", (1, 4))
    disk_events.take()
    store.commit({"draws": 4})
    synced = check_commit(disk_events.take(), tmp_path / "a")
    assert sorted(synced) == [f"{tmp_path}/a/x", f"{tmp_path}/a/x/c/0"]


def test_sealing_and_labels_are_durable_too(tmp_path: Path, disk_events: Disk) -> None:
    store = ZarrStore.new(tmp_path / "a", durable=True)
    store.create_labels("g/city", ["Zürich"])
    store.commit({})
    disk_events.take()
    store.seal()
    check_commit(disk_events.take(), tmp_path / "a")


def test_a_store_opened_again_is_durable_if_asked(tmp_path: Path, disk_events: Disk) -> None:
    create_store(tmp_path / "a", durable=True).close()
    disk_events.take()
    store = open_store(tmp_path / "a", mode="r+", durable=True)
    disk_events.take()
    store.commit({"draws": 1})
    check_commit(disk_events.take(), tmp_path / "a")


def test_a_power_loss_between_two_syncs_is_an_error_of_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ZarrStore.new(tmp_path / "a", durable=True)
    store.create(spec("x", (1, 4), (1, 4)))
    store.commit({"draws": 0})
    store.write("x", (0, 0), ramp((1, 4)))

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        store.commit({"draws": 4})
    assert ZarrStore.open(tmp_path / "a").committed() == {"draws": 0}
    monkeypatch.undo()
    store.commit({"draws": 4})
    assert ZarrStore.open(tmp_path / "a").committed() == {"draws": 4}


def test_nothing_is_synced_unless_asked(tmp_path: Path, disk_events: Disk) -> None:
    disk_events.is_durable = False
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 4), (1, 4)))
    store.write("x", (0, 0), ramp((1, 4)))
    store.put_blob("x", "checkpoint-0", [b"state"])
    store.commit({"draws": 4})
    store.seal()
    store.close()
    assert "sync" not in {event.what for event in disk_events.take()}
    reader = ZarrStore.open(tmp_path / "a", durable=True)
    reader.read("x")
    reader.close()
    assert disk_events.take() == []


def test_an_object_store_has_nothing_to_sync(disk_events: Disk) -> None:
    store = ZarrStore.new(obstore.store.MemoryStore(), durable=True)
    store.create(spec("x", (1, 4), (1, 4)))
    store.commit({"draws": 4})
    assert disk_events.take() == []
    assert store.committed() == {"draws": 4}
