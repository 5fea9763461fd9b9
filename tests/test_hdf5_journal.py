"""The journal of an HDF5 file: what replaces what, what a kill leaves, who changed the file."""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from jaxstore.errors import BusyError, FormatError
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.hdf5_flags import lookup3, without_flags
from jaxstore.stores.hdf5_journal import epoch_of, journal_path, recover
from jaxstore.stores.hdf5_journalled import JournalledFile, open_journalled
from jaxstore.stores.hdf5_overlay import Overlay

WANTED = np.arange(1000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "first" / "a.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["u"] = WANTED
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    return path


def opened(path: Path) -> tuple[JournalledFile, h5py.File]:
    raw = open_journalled(path, durable=False)
    return raw, h5py.File(raw, "r+")


def commit(raw: JournalledFile, file: h5py.File) -> None:
    raw.committing()
    file.flush()
    assert raw.error is None


def end(raw: JournalledFile, file: h5py.File) -> None:
    file.close()
    raw.close()


def as_if_killed(path: Path) -> Path:
    """What a kill at this moment would leave: a copy, which nobody locks."""
    shutil.copytree(path.parent, path.parent.with_name("second"))
    return path.parent.with_name("second") / path.name


def test_the_overlay_is_what_was_put_last() -> None:
    rng = random.Random(0)
    for _ in range(60):
        overlay, wanted = Overlay(), {}
        for _ in range(30):
            start, data = rng.randrange(60), rng.randbytes(rng.randrange(12))
            overlay.put(start, data)
            wanted |= dict(enumerate(data, start))
        if rng.random() < 0.5:
            overlay.cut(40)
            wanted = {at: byte for at, byte in wanted.items() if at < 40}
        for start, stop in ((0, 90), (13, 29)):
            found = [
                (at + i, b) for at, part in overlay.within(start, stop) for i, b in enumerate(part)
            ]
            assert found == sorted((at, b) for at, b in wanted.items() if start <= at < stop)
        joined = overlay.all()
        assert {at + i: b for at, part in joined for i, b in enumerate(part)} == wanted
        assert all(a + len(x) < b for (a, x), (b, _) in pairwise(joined))


def test_the_flag_of_an_open_file_is_taken_out_with_a_checksum_that_fits(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = 1
        file.flush()
        marked = path.read_bytes()[:48]
    clean = path.read_bytes()[:48]
    assert marked[11] != clean[11] == 0
    assert without_flags(marked)[11] == 0
    assert struct.unpack("<I", without_flags(marked)[44:]) == (lookup3(without_flags(marked)[:44]),)
    assert without_flags(clean) == clean


def test_nothing_that_counts_changes_between_commits(path: Path) -> None:
    before = path.read_bytes()
    raw, file = opened(path)
    file["new"] = np.arange(5000)
    file["u"][:10] = -1
    file.flush()
    assert path.read_bytes()[: len(before)] == before
    with h5py.File(path, "r", locking=False) as other:
        assert list(other) == ["u"]
        assert np.array_equal(other["u"][()], WANTED)
    commit(raw, file)
    with h5py.File(path, "r", locking=False) as other:
        assert np.array_equal(other["new"][()], np.arange(5000))
        assert other["u"][9] == -1
    end(raw, file)


def test_what_was_not_committed_is_gone_and_the_file_as_before(path: Path) -> None:
    before, time = path.read_bytes(), os.stat(path).st_mtime_ns
    raw, file = opened(path)
    file["new"] = np.arange(5000)
    del file["u"]
    file.flush()
    killed = as_if_killed(path)
    end(raw, file)
    assert path.read_bytes() == before
    assert os.stat(path).st_mtime_ns == time
    recover(killed)
    assert killed.read_bytes() == before
    assert os.stat(killed).st_mtime_ns == time
    assert [x.name for x in killed.parent.iterdir()] == ["a.h5"]


def test_a_commit_that_was_not_put_in_place_is_made_whole(path, monkeypatch) -> None:
    raw, file = opened(path)
    file["new"] = np.arange(50)
    file["u"][3] = 33
    with monkeypatch.context() as patch:
        patch.setattr("jaxstore.stores.hdf5_journalled.put_in_place", lambda *_: None)
        patch.setattr("jaxstore.stores.hdf5_journalled.note_in_place", lambda _: None)
        commit(raw, file)
    killed = as_if_killed(path)
    with h5py.File(killed, "r", locking=False) as other:
        assert "new" not in other
    with closing(HDF5Store.open(killed)) as store:
        assert store.read("new").tolist() == list(range(50))
        assert store.read("u")[3] == 33
    end(raw, file)


def test_what_others_changed_after_a_kill_is_left_to_them(path: Path) -> None:
    raw, file = opened(path)
    file["new"] = np.arange(50)
    commit(raw, file)
    file["later"] = np.arange(5000)
    file.flush()
    killed = as_if_killed(path)
    end(raw, file)
    with h5py.File(killed, "r+") as other:
        other["theirs"] = 7
    wanted = killed.read_bytes()
    epoch = epoch_of(killed)  # within the second, so that only the bytes tell
    recover(killed)
    assert killed.read_bytes() == wanted
    assert not journal_path(killed).exists()
    assert epoch_of(killed) != epoch or os.stat(killed).st_mtime_ns == epoch


def test_an_edit_in_place_after_a_kill_is_a_change(path: Path) -> None:
    epoch = epoch_of(path)
    raw, file = opened(path)
    file["new"] = np.arange(50)
    commit(raw, file)
    killed = as_if_killed(path)
    end(raw, file)
    assert epoch_of(killed) == epoch
    with h5py.File(killed, "r+") as other:
        other["u"][0] = 5
    changed = os.stat(journal_path(killed)).st_mtime_ns + 2_000_000_000
    os.utime(killed, ns=(changed, changed))
    assert epoch_of(killed) == changed
    recover(killed)
    assert epoch_of(killed) == changed
    with h5py.File(killed, "r") as other:
        assert other["u"][0] == 5


def test_a_damaged_journal_is_told(path: Path) -> None:
    raw, file = opened(path)
    file["new"] = np.arange(50)
    commit(raw, file)
    killed = as_if_killed(path)
    end(raw, file)
    journal = bytearray(journal_path(killed).read_bytes())
    journal[-1] ^= 1
    journal_path(killed).write_bytes(journal)
    with pytest.raises(FormatError, match="journal is damaged: its checksum"):
        HDF5Store.open(killed)


def test_a_second_writer_is_told_who_the_first_is(path: Path) -> None:
    raw, file = opened(path)
    with pytest.raises(BusyError, match=f"{os.getpid()} on"):
        open_journalled(path, durable=False)
    with pytest.raises(BlockingIOError):
        h5py.File(path, "r+")
    end(raw, file)
    with h5py.File(path, "r+") as other:
        assert list(other) == ["u"]


def test_a_forked_child_does_not_keep_the_lock(path: Path) -> None:
    reading, writing = os.pipe()
    code = f"""
import os
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from jaxstore.stores.hdf5_journalled import open_journalled
raw = open_journalled(Path({str(path)!r}), durable=False)
forked, tell = os.pipe()
if os.fork() == 0:
    os.write(tell, b"x")
    os.read({reading}, 1)
    os._exit(0)
os.read(forked, 1)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], pass_fds=[reading], check=False)
    assert done.returncode == -9
    end(*opened(path))
    os.close(writing)  # ends the child
    os.close(reading)


@pytest.mark.parametrize("call", ["pwrite", "replace"])
def test_an_error_of_the_system_is_kept_and_nothing_more_reaches_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = path.read_bytes()
    raw, file = opened(path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        file["new"] = np.arange(5000)
        raw.committing()
        file.flush()
    assert isinstance(raw.error, OSError)
    assert raw.error.errno == errno.EIO
    assert file["new"].shape == (5000,)  # for HDF5 all is well
    raw.committing()
    file.flush()
    end(raw, file)
    assert path.read_bytes() == before


def test_ctrl_c_within_hdf5_is_kept_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    raw, file = opened(path)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", interrupt)
        file["new"] = np.arange(5000)
        file.flush()
    assert isinstance(raw.error, KeyboardInterrupt)
    end(raw, file)
    assert path.read_bytes() == before
