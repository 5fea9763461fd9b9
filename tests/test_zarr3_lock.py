from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore.store
import pytest
import zarr
from arrays import assert_same_bits, ramp, spec
from zarr_places import every_file

from jaxstore.errors import BusyError, ExistsError, FormatError
from jaxstore.stores import folder_lock
from jaxstore.stores.holder import Holder
from jaxstore.stores.zarr3 import ZarrStore

WRITE = """
import sys
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.zarr3 import ZarrStore
import numpy as np
how, path = sys.argv[1:]
if how == "new":
    store = ZarrStore.new(path)
    store.create(ArraySpec("x", (1, 4), (1, 4), np.dtype("f4"), ("chain", "draw")))
else:
    store = ZarrStore.open(path, mode="r+")
store.commit({"draws": 4})
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def writing(path: Path, how: str = "new") -> Iterator[subprocess.Popen[str]]:
    """A process that writes a store until it is killed or told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, how, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_writer_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with writing(path) as process:
        before = every_file(tmp_path)
        since = json.loads(before[f"{path}/zarr.json"])["attributes"]["jaxstore_writer"]["since"]
        for place in (path, path.as_uri(), zarr.storage.LocalStore(path)):
            with pytest.raises(BusyError) as caught:
                ZarrStore.open(place, mode="r+")
            host = os.uname().nodename
            wanted = f"{path} is written by process {process.pid} on {host}, since {since}. Close"
            assert str(caught.value).startswith(wanted)
            assert "mode='r'" in str(caught.value)
        with pytest.raises(ExistsError, match="not empty"):
            ZarrStore.new(path)
        assert every_file(tmp_path) == before
        assert ZarrStore.open(path).committed() == {"draws": 4}


def test_two_processes_never_write_one_store(tmp_path: Path) -> None:
    with writing(tmp_path / "a"):
        before = every_file(tmp_path)
        other = subprocess.run(
            [sys.executable, "-c", WRITE, "open", str(tmp_path / "a")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert other.returncode == 1
        assert "BusyError" in other.stderr
        assert every_file(tmp_path) == before


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_writer_that_ended_is_in_nobodys_way(tmp_path: Path, end: int | None) -> None:
    with writing(tmp_path / "a") as process:
        if end is None:
            process.communicate()
        else:
            process.send_signal(end)
            process.wait()
        with ZarrStoreAt(tmp_path / "a") as store:
            store.commit({"draws": 5})
    assert ZarrStore.open(tmp_path / "a").committed() == {"draws": 5}


def ZarrStoreAt(path: Any) -> contextlib.closing[ZarrStore]:
    return contextlib.closing(ZarrStore.open(path, mode="r+"))


@pytest.mark.parametrize("kind", ["path", "zarr", "obstore", "group"])
def test_this_process_is_refused_too(tmp_path: Path, kind: str) -> None:
    store = ZarrStore.new(tmp_path)
    place = {
        "path": lambda: tmp_path,
        "zarr": lambda: zarr.storage.LocalStore(tmp_path),
        "obstore": lambda: obstore.store.LocalStore(tmp_path),
        "group": lambda: zarr.open_group(tmp_path),
    }[kind]()
    before = every_file(tmp_path)
    with pytest.raises(BusyError, match=rf"written by this process \({os.getpid()} on "):
        ZarrStore.open(place, mode="r+")
    assert every_file(tmp_path) == before
    store.close()
    with ZarrStoreAt(place) as store:
        store.commit({"draws": 1})


def test_a_store_that_nobody_holds_any_more_is_free(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    del store
    gc.collect()
    with ZarrStoreAt(tmp_path / "a"):
        pass


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no way to count descriptors")
def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    ZarrStore.new(tmp_path / "a").close()
    before = os.listdir("/proc/self/fd")
    holder = ZarrStore.open(tmp_path / "a", mode="r+")
    for _ in range(3):
        with pytest.raises(BusyError):
            ZarrStore.open(tmp_path / "a", mode="r+")
    holder.seal()
    assert os.listdir("/proc/self/fd") == before
    holder.commit({})
    holder.close()
    assert os.listdir("/proc/self/fd") == before


def test_readers_lock_nothing_and_are_not_kept_out(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    readers = [ZarrStore.open(tmp_path / "a"), store.reader()]
    store.commit({"draws": 1})
    assert [reader.committed() for reader in readers] == [{"draws": 1}] * 2
    store.close()
    with ZarrStoreAt(tmp_path / "a") as other:
        other.commit({"draws": 2})
    assert [reader.committed() for reader in readers] == [{"draws": 2}] * 2


def test_sealing_gives_the_store_back_and_writing_takes_it_again(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 4), (1, 4)))
    store.seal()
    with ZarrStoreAt(tmp_path / "a") as other:
        other.create(spec("y", (1, 4), (1, 4)))
        other.resize("x", (1, 2))
        other.commit({"draws": 2})
        before = every_file(tmp_path)
        with pytest.raises(BusyError, match="is written by this process"):
            store.resize("x", (1, 8))
        assert every_file(tmp_path) == before
    store.write("x", (0, 0), ramp((1, 4)))
    assert store.spec("x").shape == (1, 2)  # as the other one left it
    assert store.names() == ["x", "y"]
    assert store.committed() == {"draws": 2}
    with pytest.raises(BusyError):
        ZarrStore.open(tmp_path / "a", mode="r+")
    store.resize("x", (1, 4))
    assert_same_bits(store.read("x"), ramp((1, 4)))


def test_an_array_that_another_made_anew_is_written_as_it_is_now(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 8), (1, 8)))
    store.write("x", (0, 0), ramp((1, 8)))
    store.seal()
    shutil.rmtree(tmp_path / "a/x")
    with ZarrStoreAt(tmp_path / "a") as other:
        other.create(spec("x", (1, 8), (1, 2)))
        other.commit({})
    store.write("x", (0, 0), -ramp((1, 8)))
    assert_same_bits(store.reader().read("x"), -ramp((1, 8)))


def test_taking_a_sealed_store_keeps_its_copies_until_something_changes(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 4), (1, 4)))
    store.seal()
    ZarrStore.open(tmp_path / "a", mode="r+").close()
    found = json.loads((tmp_path / "a/zarr.json").read_text())
    assert list(found["consolidated_metadata"]["metadata"]) == ["x"]


def test_the_writer_is_no_attribute_for_users(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    assert store.attrs() == {}
    with pytest.raises(ValueError, match="jaxstore_writer"):
        store.set_attrs({"jaxstore_writer": 1})
    store.close()
    for _ in range(2):
        ZarrStore.open(tmp_path / "a", mode="r+").close()
    assert ZarrStore.open(tmp_path / "a").attrs() == {}


def test_no_file_is_made_for_the_lock(tmp_path: Path) -> None:
    with contextlib.closing(ZarrStore.new(tmp_path / "a")):
        assert os.listdir(tmp_path / "a") == ["zarr.json"]
    assert os.listdir(tmp_path / "a") == ["zarr.json"]


@pytest.mark.parametrize("missing", ["fcntl", "flock"])
def test_where_there_are_no_locks_writing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    class NoLocks:
        LOCK_EX = LOCK_NB = LOCK_UN = 0

        @staticmethod
        def flock(*_: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock, "fcntl", None if missing == "fcntl" else NoLocks)
    stores = [ZarrStore.new(tmp_path / "a"), ZarrStore.open(tmp_path / "a", mode="r+")]
    for n, store in enumerate(stores):
        store.commit({"draws": n})
        store.close()
    assert ZarrStore.open(tmp_path / "a").committed() == {"draws": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_forked_child_neither_has_nor_keeps_the_store(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    ready, told = os.pipe()
    go_on, end = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"wrote"
        with contextlib.suppress(BusyError):
            try:
                store.commit({"draws": 9})
            except BusyError as error:
                answer = str(error).encode()
        os.write(told, answer)
        os.close(end)
        os.read(go_on, 1)  # until the parent ends or says so
        os._exit(0)
    try:
        assert f"is written by process {os.getpid()} on".encode() in os.read(ready, 1000)
        assert store.committed() is None
        store.commit({"draws": 1})
        store._hold._lock._close()  # type: ignore[union-attr] # as the kernel does at a kill
        ZarrStore.open(tmp_path / "a", mode="r+").close()  # though the child lives
    finally:
        for file in (ready, told, go_on, end):
            os.close(file)
        os.waitpid(child, 0)


# --- who it is ---


def test_a_holder_comes_back_from_json() -> None:
    holder = Holder.of_this_process()
    assert Holder.from_json(json.loads(json.dumps(holder.to_json())), where="a") == holder
    assert Holder.from_json(None, where="a") is None
    assert str(holder).startswith(f"this process ({os.getpid()} on ")
    assert not holder.is_gone


@pytest.mark.parametrize(
    "value", [3, "x", [], {}, {"host": 1}, {**Holder("", 0, "", "").to_json(), "pid": True}]
)
def test_what_is_no_holder_is_refused(value: Any) -> None:
    with pytest.raises(FormatError, match="a does not say"):
        Holder.from_json(value, where="a")


def test_only_a_process_of_this_very_machine_is_known_to_be_gone() -> None:
    here = Holder.of_this_process().to_json()
    gone = {**here, "pid": 2**22 + 1}
    assert Holder(**gone).is_gone
    assert not Holder(**{**gone, "host": "elsewhere"}).is_gone
    assert not Holder(**{**gone, "pids": "another container with this name"}).is_gone
    assert Holder(**{**here, "released": True}).is_gone


# --- blobs ---


def test_zarr_and_xarray_do_not_see_blobs(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    store = ZarrStore.new(tmp_path / "a")
    for name in ("posterior/iteration", "posterior/deep/theta"):
        store.create(spec(name, (2, 8), (2, 4)))
        store.write(name, (0, 0), ramp((2, 8)))
        for key in ("checkpoint-0", "checkpoint-1", "tail-0"):
            store.put_blob(name, key, [b"state"])
    store.commit({"draws": 8})
    for _ in ("live", "sealed"):  # warnings are errors
        for consolidated in (None, False):
            group = zarr.open_group(tmp_path / "a", mode="r", use_consolidated=consolidated)
            members = [name for name, _ in group.members(max_depth=None)]
            assert sorted(members) == [
                *("posterior", "posterior/deep", "posterior/deep/theta", "posterior/iteration")
            ]
            assert list(group["posterior"].array_keys()) == ["iteration"]
            assert group["posterior/iteration"].nchunks_initialized == 2
        tree = xarray.open_datatree(tmp_path / "a", engine="zarr", consolidated=_ == "sealed")
        assert_same_bits(tree["posterior/deep/theta"].values, ramp((2, 8)))
        tree.close()
        store.seal()
