from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from arrays import ramp, spec
from zarr_places import every_file

from jaxstore.errors import MissingError
from jaxstore.stores import files
from jaxstore.stores.files import (
    make_folders,
    put_file,
    remove_leftovers,
    remove_partials,
    sync_folder,
)
from jaxstore.stores.zarr3 import ZarrStore

NOBODY = 65534


# --- one file ---


def test_a_file_is_the_parts_one_after_the_other(tmp_path: Path) -> None:
    for parts in ([b"old"], [b"a", memoryview(ramp((3,))), b"", bytearray(b"z")], []):
        put_file(str(tmp_path / "a"), parts)
        assert (tmp_path / "a").read_bytes() == b"".join(parts)
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_write_names_the_file_and_leaves_the_old_one(disk: Path) -> None:
    put_file(str(disk / "a"), [b"old"])
    with pytest.raises(OSError, match="No space left.*a'") as caught:
        put_file(str(disk / "a"), [bytes(64 << 20)])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(disk / "a")
    assert os.listdir(disk) == ["a"]
    assert (disk / "a").read_bytes() == b"old"


def test_a_leftover_of_the_same_process_number_is_in_nobodys_way(tmp_path: Path) -> None:
    name = f"a.{files.socket.gethostname()}-{os.getpid()}-"
    for n in range(100):
        (tmp_path / f"{name}{n}.partial").write_bytes(b"of a container that was killed")
    put_file(str(tmp_path / "a"), [b"new"])
    assert (tmp_path / "a").read_bytes() == b"new"


def test_leftovers_are_removed_at_any_depth(tmp_path: Path) -> None:
    dead = f"{files.socket.gethostname()}-{2**22 + 1}-0.partial"
    for folder in ("g/x/c/0/1", "g/x", "."):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f"zarr.json.{dead}").write_text("{")
        (tmp_path / folder / "kept").write_text("mine")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"kept"}


@pytest.mark.skipif(sys.platform != "linux", reason="told by /proc")
def test_a_process_that_ended_and_was_not_waited_for_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        for pid in (ended.pid, os.getpid()):
            (tmp_path / f"a.{files.socket.gethostname()}-{pid}-0.partial").write_text("{")
        remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == [f"a.{files.socket.gethostname()}-{os.getpid()}-0.partial"]


def test_leftovers_beside_a_file_are_removed_with_those_of_what_lies_beside_it(
    tmp_path: Path,
) -> None:
    dead = f"{2**22 + 1}-0.partial"
    here = files.socket.gethostname()
    gone = [f"a[1].h5.{here}-{dead}", f"a[1].h5.commit.json.{here}-{dead}"]
    kept = [
        f"a1.h5.{here}-{dead}",
        f"a[1].h5.{here}-{os.getpid()}-0.partial",
        f"a[1].h5.gpu-{here}-{dead}",  # of another machine, where that process may live
        "a[1].h5.0d1f.partial",  # of another library
    ]
    for name in (*gone, *kept):
        (tmp_path / name).write_text("{")
    remove_partials(tmp_path / "a[1].h5")
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept[1:])


# --- folders ---


def test_folders_are_made_below_a_root_that_is_there(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert make_folders(root, "a/b") == [root, f"{root}/a"]
    assert make_folders(root, "a/b/c") == [f"{root}/a/b"]
    assert make_folders(root, "a/b/c") == make_folders(root, "") == []
    for folder in ("", "a"):
        with pytest.raises(MissingError, match="gone: the folder was removed"):
            make_folders(f"{root}/gone", folder)
    assert os.listdir(root) == ["a"]


def test_syncing_a_folder_that_is_gone_says_which(tmp_path: Path) -> None:
    sync_folder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="gone"):
        sync_folder(str(tmp_path / "gone"))


# --- failures of a store on files ---


def changes(store: ZarrStore) -> dict[str, Any]:
    return {
        "write": lambda: store.write("g/x", (0, 4), ramp((1, 4))),
        "write a new folder": lambda: store.write("g/x", (1, 0), ramp((1, 4))),
        "resize": lambda: store.resize("g/x", (2, 12)),
        "create": lambda: store.create(spec("h/y", (1, 4), (1, 4))),
        "attrs": lambda: store.set_attrs({"a": 1}),
        "blob": lambda: store.put_blob("g/x", "checkpoint-0", [b"state"]),
        "commit": lambda: store.commit({"draws": 12}),
        "seal": lambda: store.seal(),
    }


CHANGES = list(changes(None))  # type: ignore[arg-type]


def started(path: Path) -> ZarrStore:
    store = ZarrStore.new(path)
    store.create(spec("g/x", (2, 8), (1, 4)))
    store.write("g/x", (0, 0), ramp((1, 4)))
    store.commit({"draws": 4})
    return store


@pytest.mark.parametrize("change", CHANGES)
def test_a_store_whose_folder_is_gone_is_not_made_again(tmp_path: Path, change: str) -> None:
    store = started(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    before = every_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/a: the folder was removed") as caught:
        changes(store)[change]()
    assert isinstance(caught.value, MissingError)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "a")
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert every_file(tmp_path) == before


@pytest.mark.parametrize("change", ["attrs", "commit", "seal"])
def test_a_store_of_others_at_the_same_path_is_let_be(tmp_path: Path, change: str) -> None:
    store = started(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "elsewhere")
    ZarrStore.new(tmp_path / "a").commit({"draws": 1})
    before = every_file(tmp_path)
    with pytest.raises(MissingError, match="removed or replaced"):
        changes(store)[change]()
    assert every_file(tmp_path) == before


@pytest.fixture
def forbidden() -> Iterator[Path]:
    """A folder of a store that this process may read and not write: root becomes nobody."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        started(path / "a").close()
        path.chmod(0o755)
        is_root = os.geteuid() == 0
        for below in path.rglob("*") if not is_root else ():
            below.chmod(0o555 if below.is_dir() else 0o444)
        try:
            if is_root:
                os.seteuid(NOBODY)
            yield path / "a"
        finally:
            if is_root:
                os.seteuid(0)
            for below in path.rglob("*"):
                below.chmod(0o755)


def test_what_is_forbidden_is_a_permission_error(forbidden: Path) -> None:
    before = every_file(forbidden)
    with pytest.raises(PermissionError) as caught:
        ZarrStore.open(forbidden, mode="r+")
    assert caught.value.errno == errno.EACCES
    assert str(caught.value.filename).startswith(str(forbidden))
    assert every_file(forbidden) == before
    assert ZarrStore.open(forbidden).committed() == {"draws": 4}


@pytest.mark.parametrize("change", CHANGES)
def test_a_permission_lost_while_writing_is_a_permission_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    # As root nothing is forbidden, so the system's answer is put in.
    store = started(tmp_path / "a")
    before = every_file(tmp_path)
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, flags, *args)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        changes(store)[change]()
    assert caught.value.errno == errno.EACCES
    assert str(caught.value.filename).startswith(str(tmp_path / "a"))
    monkeypatch.undo()
    assert every_file(tmp_path) == before
    changes(store)[change]()


@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_is_an_error_with_path_and_number(disk: Path, change: str) -> None:
    with contextlib.closing(started(disk / "a")) as store:
        check_full_disk(store, disk, changes(store)[change])


def check_full_disk(store: ZarrStore, disk: Path, change: Callable[[], None]) -> None:
    before = every_file(disk / "a")

    def change_until_full() -> None:
        while True:  # a small file may still find room
            fill(disk / "ballast")
            change()

    with pytest.raises(OSError, match="No space left") as caught:
        change_until_full()
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(str(disk / "a"))
    found = every_file(disk / "a")
    assert {key: value for key, value in found.items() if key in before} == before
    assert store.committed() == {"draws": 4}
    (disk / "ballast").unlink()
    change()
    store.commit({"draws": 5})
    assert ZarrStore.open(disk / "a").committed() == {"draws": 5}


def fill(path: Path) -> None:
    """Grow a file until nothing more fits on its disk."""
    with path.open("ab", buffering=0) as file:
        for n_bytes in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(n_bytes)) == n_bytes:
                    pass
