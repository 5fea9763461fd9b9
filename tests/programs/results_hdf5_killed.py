"""Kills children that write results into an HDF5 file, and tells what they leave.

python results_hdf5_killed.py FOLDER points|random|join|recovery N SEED

`points`, `join` and `recovery` kill at one change of the disk after the other, or at every n-th,
each torn in the middle; `random` kills N children at random moments. Prints one JSON object per
kill: what was wrong, and how much was done.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from contract_results import MANIFEST, array, fill, regions, rows, values

from jaxstore.errors import MissingError
from jaxstore.stores.hdf5_journal import epoch_of, recover
from jaxstore.stores.results import DONE
from jaxstore.stores.results_hdf5 import HDF5Results

NAME, GROUP = "raw-peak_000", "measurement"
CHANGES = ("pwrite", "writev", "ftruncate", "utime", "replace", "link", "unlink", "mkdir", "rmdir")
N_UNITS = 2000
Tell = Callable[[int], None]


def arm(at: int) -> list[int]:
    """Die in the midst of a change of the disk, by its number; the count of changes so far."""
    count = [0]

    def counted(name: str, change: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            count[0] += 1
            if count[0] == at:
                if name == "pwrite":
                    change(args[0], args[1][: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **settings)

        return call

    for name in CHANGES:
        setattr(os, name, counted(name, getattr(os, name)))
    return count


def killed_child(work: Callable[[Tell], None], *, at: int = 0, delay_s: float = 0.0) -> Any:
    """What a child told before it was killed, and whether it came to its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        arm(at)
        work(lambda unit: os.write(writing, b"%d\n" % unit) and None)
        os._exit(0)
    os.close(writing)
    if delay_s:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as told:
        units = [int(line) for line in told if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL or os.WEXITSTATUS(status) == 0, status
    return units, os.WIFEXITED(status)


def users_file(path: Path, libver: str) -> dict[str, Any]:
    """A file with data of its user; what is in it."""
    given = {"contiguous": np.arange(3000.0), "chunked": np.arange(6000).reshape(60, 100)}
    with h5py.File(path, "w", libver=libver) as file:
        file["g/contiguous"] = given["contiguous"]
        file.create_dataset("g/chunked", data=given["chunked"], chunks=(7, 30), compression="gzip")
        file.attrs["title"] = "precious"
    return given


def what_is_wrong(path: Path, given: dict[str, Any], told: list[int], epoch: int) -> list[str]:
    wrong = []
    if epoch_of(path) != epoch:
        wrong.append("epoch before")
    done: list[int] = []
    try:
        group = HDF5Results(path, group=GROUP).open(NAME)
        marks = group.marks()
        done = np.flatnonzero(marks == DONE).tolist()
        wrong += [
            f"unit {unit}"
            for unit in done
            if group.read("amp", rows(unit), is_strict=True).tobytes() != values(unit).tobytes()
        ]
        group.close()
    except MissingError:
        if told:
            wrong.append("no result")
    wrong += [f"lost {unit}" for unit in set(told) - set(done)]
    if epoch_of(path) != epoch:
        wrong.append("epoch after")
    with h5py.File(path, "r") as file:
        for name, wanted in given.items():
            if file[f"g/{name}"][()].tobytes() != wanted.tobytes():
                wrong.append(name)
        if file.attrs["title"] != "precious":
            wrong.append("title")
    return wrong


def left_beside(path: Path) -> list[str]:
    return [f"left {x.name}" for x in path.parent.iterdir() if x != path]


def fill_some(path: Path, tell: Tell, n: int) -> None:
    """Make the result, or go on with it; do n more units."""
    place = HDF5Results(path, group=GROUP)
    try:
        group = place.open(NAME, role="owner")
    except MissingError:
        specs = [array("amp", (2 * N_UNITS, 3)), array("pos/x", (2 * N_UNITS,), "i4")]
        group = place.create(NAME, manifest=MANIFEST, specs=specs, n_units=N_UNITS)
    for unit in np.flatnonzero(group.marks() != DONE)[:n].tolist():
        fill(group, unit)
        tell(unit)
    if n == 2:
        group.set_marks(group.marks())
        group.set_manifest({"state": "x" * 3000})
        fill(group, 1)  # in the place of what is there
    group.close()


def points(path: Path, step: int, seed: int) -> None:
    for at in range(1 + seed, 1000, step):
        for old in path.parent.iterdir():
            old.unlink()
        given = users_file(path, ("earliest", "latest")[at % 2])
        epoch = epoch_of(path)
        told, is_whole = killed_child(lambda tell: fill_some(path, tell, 2), at=at)
        wrong = what_is_wrong(path, given, told, epoch)
        more, _ = killed_child(lambda tell: fill_some(path, tell, 3))
        wrong += what_is_wrong(path, given, told + more, epoch) + left_beside(path)
        print(json.dumps({"wrong": wrong, "done": len(told + more)}))
        if is_whole:
            return


def at_random(path: Path, n: int, seed: int) -> None:
    rng = random.Random(seed)
    given = users_file(path, "earliest")
    epoch, told, patience = epoch_of(path), [], 1.0
    for _ in range(n):
        delay_s = patience * rng.uniform(0.005, 0.06)
        new, is_whole = killed_child(lambda tell: fill_some(path, tell, N_UNITS), delay_s=delay_s)
        # A busy machine comes nowhere in so little time.
        patience = 1.0 if new or is_whole else 1.3 * patience
        told += new
        print(json.dumps({"wrong": what_is_wrong(path, given, told, epoch), "done": len(told)}))


def in_recovery(path: Path, step: int, seed: int) -> None:
    """Kill between a commit and its end, then the recovery from that, again and again."""
    folder = path.parent
    given = users_file(path, "latest")
    epoch, told = epoch_of(path), []
    kept = folder.with_name("kept")
    for first in range(12 + seed, 100, step):
        told += killed_child(lambda tell: fill_some(path, tell, 4), at=first)[0]
        if not (folder / f"{path.name}.journal").exists():
            continue
        shutil.copytree(folder, kept)  # with the times of files
        for at in range(1, 100):
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
            _, is_whole = killed_child(lambda tell: recover(path), at=at)
            wrong = what_is_wrong(path, given, told, epoch)
            print(json.dumps({"wrong": wrong, "done": len(told)}))
            if is_whole:
                break
        shutil.rmtree(kept)


def in_join(path: Path, step: int, seed: int) -> None:
    """Kill an owner that joins what members did."""
    place = HDF5Results(path, group=GROUP)

    def member(tell: Tell, writer: str, units: tuple[int, ...]) -> None:
        group = place.open(NAME, role="member", writer=writer)
        for unit in units:
            fill(group, unit)
            tell(unit)
        os._exit(0)  # with its file open

    def join(_: Tell) -> None:
        group = place.open(NAME, role="owner")
        group.join(regions)
        group.close()

    for at in range(1 + seed, 1000, step):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        given = users_file(path, "earliest")
        epoch = epoch_of(path)
        killed_child(lambda tell: fill_some(path, tell, 1))
        killed_child(lambda _: place.open(NAME, role="owner").share())
        told = [0]
        told += killed_child(lambda tell: member(tell, "a", (3, 5)))[0]
        told += killed_child(lambda tell: member(tell, "b", (4, 9)))[0]
        _, is_whole = killed_child(join, at=at)
        killed_child(join)
        wrong = what_is_wrong(path, given, told, epoch)
        print(json.dumps({"wrong": wrong + left_beside(path), "done": len(told)}))
        if is_whole:
            return


if __name__ == "__main__":
    folder, what, number, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ways = {"points": points, "random": at_random, "recovery": in_recovery, "join": in_join}
    ways[what](folder / "a.h5", number, seed)
