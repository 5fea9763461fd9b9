"""Runs that meet a full disk, a folder that becomes read-only, or one that is gone.

python trouble.py SUFFIX HOW DISK again|later|lost      SUFFIX "zarr" or "h5", HOW as in `resumable`
python trouble.py SUFFIX HOW DISK resume

DISK is a file system of its own. Each trouble comes just before a call of a method of the store,
so that it meets the same moment each time. With "again" the run goes on in this process once there
is room again; with "later" it is left for another process, which is told "resume". "lost" are the
read-only folder and the one that is gone.
"""

from __future__ import annotations

import contextlib
import encodings.cp437  # noqa: F401 - of zip files; nobody may not read where Python lies
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import resumable
from whole_stores import assert_same_bits

import jaxstore as js
from jaxstore.errors import FormatError, MissingError
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.zarr3 import ZarrStore

NOBODY = 65534
LENGTH, EVERY = 400, 50
# The method before whose n-th call it happens, and whether draws are committed by then; None where
# time tells.
MOMENTS = {
    "creation": ("create", 2, False),
    "first chunk": ("write", 1, None),
    "midway": ("write", 40, True),
    "checkpoint": ("put_blob", 2, None),
    "seal": ("seal", 1, True),
}


def fill(disk: Path) -> None:
    """Leave no room for one more byte."""
    with contextlib.suppress(OSError), open(disk / "ballast", "ab", buffering=0) as ballast:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while ballast.write(bytes(size)):
                    pass


@contextlib.contextmanager
def before(suffix: str, method: str, nth: int, do: Callable[[], object]) -> Iterator[list[int]]:
    """Do something just before the n-th call of a store's method; gives the number of calls."""
    kind = HDF5Store if suffix == "h5" else ZarrStore
    real, calls = getattr(kind, method), [0]

    def call(self: Any, *args: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            do()
        return real(self, *args, **keywords)

    with mock.patch.object(kind, method, call):
        yield calls


def collector_of(path: Path) -> Any:
    made = js.HDF5Collector if path.suffix == ".h5" else js.ZarrCollector
    return made(path, group=None, chunk_draws=16)


def run(how: str, path: Path, collector: Any = None) -> Any:
    with collector or collector_of(path) as collector:
        return resumable.sampled(how, collector, LENGTH, every=EVERY, buffer_draws=16)


def check(how: str, path: Path, wanted: Any, *, state: str | None) -> int:
    """What is committed is exact; returns the number of draws."""
    with js.open_run(path) as found:
        assert state is None or found.state == state, found.state
        for chain, n in enumerate(found.sample_count.tolist()):
            assert state != "complete" or n == wanted.sample_count[chain]
            assert_same_bits(found.iteration[chain, :n], wanted.iteration[chain, :n], "iteration")
            for left, right in zip(found.leaves, wanted.leaves, strict=True):
                values = [np.asarray(leaf.plain()[...])[chain, :n] for leaf in (left, right)]
                assert_same_bits(*values, f"{left.name} of chain {chain}")
        return int(found.sample_count.sum())


def fails_with(
    number: int, path: Path, call: Callable[[], object], *, may_do: bool = False
) -> None:
    """Check that a call raises this error of the system, and that it names the path."""
    raised: OSError | None = None
    try:
        call()
    except OSError as error:
        raised = error
    if raised is None:
        assert may_do, f"{path}: no error"
        return
    assert raised.errno == number, repr(raised)
    assert path.stem in str(raised), repr(raised)


def meet_full_disk(suffix: str, how: str, disk: Path, wanted: Any, *, again: bool) -> None:
    for moment, (method, nth, has_draws) in MOMENTS.items():
        path = disk / f"{moment}.{suffix}"
        collector = collector_of(path)
        with before(suffix, method, nth, lambda: fill(disk)) as calls:
            # To seal a file of HDF5 may need no more room than it has.
            may_do = (moment, suffix) == ("seal", "h5")
            call = partial(run, how, path, collector)
            fails_with(errno.ENOSPC, path, call, may_do=may_do)
            assert calls[0] >= nth, f"{moment}: {method} was called {calls[0]} times"
        try:
            n_draws = check(how, path, wanted, state=None)
        except (MissingError, FormatError):
            assert not has_draws
            n_draws = 0
        assert has_draws is None or (n_draws > 0) == has_draws, (moment, n_draws)
        (disk / "ballast").unlink()
        if again:
            run(how, path)
            check(how, path, wanted, state="complete")
            remove(path)
        print(moment, flush=True)


def remove(path: Path) -> None:
    """Make room again."""
    for found in path.parent.glob(f"{path.name}*"):
        shutil.rmtree(found) if found.is_dir() else found.unlink()


def lose_permission(suffix: str, how: str, wanted: Any) -> None:
    """The folders become read-only; root would not mind, so somebody else runs."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # with no folder above it that is root's alone
    os.chown(folder, NOBODY, NOBODY)
    path = folder / f"lost.{suffix}"

    def chmod(mode: int) -> None:
        for name, _, _ in list(os.walk(folder)):
            os.chmod(name, mode)

    os.seteuid(NOBODY)
    try:
        with before(suffix, "put_blob", 2, lambda: chmod(0o555)):
            fails_with(errno.EACCES, path, lambda: run(how, path))
        check(how, path, wanted, state=None)
        chmod(0o755)
        run(how, path)
        check(how, path, wanted, state="complete")
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)
    print("permission", flush=True)


def lose_folder(suffix: str, how: str, disk: Path) -> None:
    folder = disk / "folder"
    folder.mkdir()
    path = folder / f"gone.{suffix}"
    with before(suffix, "put_blob", 2, lambda: shutil.rmtree(folder)):
        fails_with(errno.ENOENT, path, lambda: run(how, path))
    assert not folder.exists()
    print("folder", flush=True)


def main() -> None:
    suffix, how, where, what = sys.argv[1:]
    disk = Path(where)
    same = "ragged" if how == "triple" else how
    wanted = resumable.sampled(same, js.MemoryCollector(), LENGTH, every=EVERY)
    if what == "resume":
        for moment in MOMENTS:
            path = disk / f"{moment}.{suffix}"
            run(how, path)
            check(how, path, wanted, state="complete")
            print(moment, flush=True)
        return
    if what == "lost":
        lose_permission(suffix, how, wanted)
        lose_folder(suffix, how, disk)
        return
    meet_full_disk(suffix, how, disk, wanted, again=what == "again")


if __name__ == "__main__":
    main()
