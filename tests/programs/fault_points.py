"""A run that dies at a chosen change of a file, is read, goes on, and is compared with a whole one.

LD_PRELOAD=fault_points.so python fault_points.py CASE FOLDER POINTS HOW...

CASE is "zarr", "zarr-durable", "hdf5" or "hdf5-durable", then "-ragged" or not, then "-small" for
chunks of one draw or not. POINTS, "first:stop:every", are the changes at which a run dies, counted
from 1, all that follow without a stop: "before", "after" or in "half" of it, or it finds the disk
"full" from there on; first one that begins, then one that goes on with another that died midway.
"checkpoint" are all changes of its third checkpoint. Prints a line of JSON for each death. No JAX
program runs, so that a process can fork for each.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import mmap
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from whole_stores import assert_same_arrays, assert_same_bits, decoded

import jaxstore as js
from jaxstore.errors import JaxstoreError
from jaxstore.saving import recorder
from jaxstore.saving.block import Block
from jaxstore.saving.checkpoint import Checkpoint, layout_of_state

N_CHAINS = 4
BLOCK_STEPS = 5
CHECKPOINT_STEPS = 10
HOWS = {"before": 0, "after": 1, "half": 2, "full": 3}
SAMPLE = {
    "posterior": {"theta": np.zeros(3, np.float32), "half": np.zeros((), ml_dtypes.bfloat16)},
    "stats": {"n": np.zeros((), np.int32)},
}
checkpoints: list[tuple[int, int]] = []  # the first and last change of each
Draws = tuple[np.ndarray, list[np.ndarray]]  # steps, leaves in the order of the tree


@dataclass(frozen=True)
class Case:
    """What is run."""

    kind: str  # "zarr", "hdf5"
    durable: bool
    is_ragged: bool
    is_small: bool

    @staticmethod
    def of(text: str) -> Case:
        kind, *more = text.split("-")
        return Case(kind, "durable" in more, "ragged" in more, "small" in more)

    @property
    def suffix(self) -> str:
        return {"zarr": "zarr", "hdf5": "h5"}[self.kind]

    @property
    def n_steps(self) -> int:
        return 60 if self.is_small else 40

    def collector(self, path: Path, chunk_draws: int) -> Any:
        made = {"zarr": js.ZarrCollector, "hdf5": js.HDF5Collector}[self.kind]
        coords = {"coefficient": np.array([0.5, 1.5, 2.5])}
        return made(
            path, group=None, chunk_draws=chunk_draws, durable=self.durable,
            dims={"posterior/theta": ["coefficient"]}, coords=coords,
        )  # fmt: skip

    def first_chunks(self) -> int:
        return 1 if self.is_small else 8


def advance(state: np.ndarray) -> np.ndarray:
    return state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)


def leaves_of(state: np.ndarray) -> list[np.ndarray]:
    top = (state >> np.uint64(40)).astype(np.float32)
    half = (state >> np.uint64(56)).astype(ml_dtypes.bfloat16)
    return [half, top[:, None] * np.float32([1, 2, 3]), (state >> np.uint64(33)).astype(np.int32)]


def blocks(case: Case, state: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, list[Block]]:
    """The state after some steps, and their draws."""
    kept: list[list[tuple[int, list[np.ndarray]]]] = [[] for _ in range(N_CHAINS)]
    for step in range(start, stop):
        state = advance(state)
        leaves = leaves_of(state)
        for chain in range(N_CHAINS):
            luck = int(state[chain] >> np.uint64(33)) % 4
            if luck <= 3 - chain if case.is_ragged else step % 2:
                kept[chain].append((step, [leaf[chain] for leaf in leaves]))
    chains = [
        Block(
            chain,
            np.array([[step for step, _ in rows]], np.int64),
            tuple(np.stack(column)[None] for column in zip(*(r for _, r in rows), strict=True)),
            N_CHAINS,
        )
        for chain, rows in enumerate(kept)
        if rows
    ]
    if case.is_ragged:
        return state, chains
    leaves = tuple(np.concatenate(c) for c in zip(*(b.leaves for b in chains), strict=True))
    return state, [Block(0, np.concatenate([b.steps for b in chains]), leaves, N_CHAINS)]


def first_state() -> np.ndarray:
    return np.arange(1, N_CHAINS + 1, dtype=np.uint64)


def wanted(case: Case) -> list[Draws]:
    """All draws of each chain."""
    _, made = blocks(case, first_state(), 0, case.n_steps)
    rows = [(b.first_chain + i, b, i) for b in made for i in range(b.n_chains)]
    rows.sort(key=lambda row: row[0])
    return [(b.steps[i], [leaf[i] for leaf in b.leaves]) for _, b, i in rows]


def n_draws(case: Case) -> int:
    return sum(len(steps) for steps, _ in wanted(case))


class Told:
    """What a process that dies had been told was committed; its memory outlives it."""

    def __init__(self) -> None:
        self._pages = mmap.mmap(-1, 4096)
        self.counts = np.frombuffer(self._pages, np.int64, 2)
        self.counts[:] = -1

    def tell(self, draws: int, step: int) -> None:
        self.counts[:] = draws, step


def drive(case: Case, path: Path, chunk_draws: int, told: Told) -> None:
    """Begin the run at a path, or go on with it, to its end."""
    with case.collector(path, chunk_draws) as collector:
        found = collector.take_up()
        point = found.checkpoint if found else None
        recording = collector.recording
        if found and point and found.is_complete and point.step == case.n_steps:
            recording.give_back(found, SAMPLE).close()
            return
        session = recording.begin(
            SAMPLE, declared=None, settings={"checkpoint_every": 10}, is_alone=True
        )
        told.tell(0 if point is None else sum(point.draws), 0)
        step, state = (point.step, point.leaves[0]) if point else (0, first_state())
        if point is None:
            session.open_chains(N_CHAINS)
            keep(recording, session, case, 0, state)
        while step < case.n_steps:
            state, made = blocks(case, state, step, step + BLOCK_STEPS)
            step += BLOCK_STEPS
            session.put_all(made)
            if step % CHECKPOINT_STEPS == 0:
                keep(recording, session, case, step, state)
            recording.flush()
            told.tell(recording.status().committed, step)
        recording.finish_run([session]).close()
        told.tell(n_draws(case), step)


def keep(recording: Any, session: Any, case: Case, step: int, state: np.ndarray) -> None:
    layout = layout_of_state({"carry": state})
    senders = session.senders(is_ragged=case.is_ragged)
    point = Checkpoint(step, session.draws, layout, (state,), (), senders)
    recording.flush()
    begun = Faults().n_changes
    recording.put_checkpoint(point)
    recording.flush()
    checkpoints.append((begun + 1, Faults().n_changes))


def check_prefix(case: Case, path: Path, told: Told) -> None:
    """What is committed is exact, and no less than was told."""
    try:
        run = js.open_run(path)
    except JaxstoreError:
        # Nothing had been told to be there yet.
        assert told.counts.max() < 0, f"{told.counts} were told, and it does not open"
        return
    with run:
        counts = run.sample_count.tolist()
        steps = run.iteration
        assert sum(counts) >= told.counts[0], f"{counts} are left, {told.counts} were told"
        for chain, n in enumerate(counts):
            all_steps, leaves = wanted(case)[chain]
            assert_same_bits(steps[chain, :n], all_steps[:n], f"steps of chain {chain}")
            for found, leaf in zip(run.leaves, leaves, strict=True):
                assert_same_bits(
                    np.asarray(found.of_chain(chain)[:n]), leaf[:n], f"{found.name} {chain}"
                )


def check_whole(case: Case, path: Path, reference: Path) -> None:
    """The store equals one that was never interrupted, for us and for others."""
    with js.open_run(path) as run:
        assert run.state == "complete"
    told = Told()
    told.tell(n_draws(case), case.n_steps)
    check_prefix(case, path, told)
    assert js.verify(path).is_sound, js.verify(path)
    assert_same_arrays(decoded(path), decoded(reference))


def in_child(call: Callable[[], None]) -> tuple[int, str]:
    """Exit status of a fork that calls this, and what it had to say."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            os.write(write, traceback.format_exc()[-1500:].encode())
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    return os.waitpid(child, 0)[1], said


class Faults:
    """The preloaded library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fault_name.restype = ctypes.c_char_p
        self._library.fault_count.restype = ctypes.c_long

    @property
    def n_changes(self) -> int:
        return int(self._library.fault_count())

    def arm(self, folder: Path, n: int, how: str) -> None:
        self._library.fault_arm(str(folder).encode(), ctypes.c_long(n), HOWS[how])

    def names(self) -> list[str]:
        numbers = range(1, self.n_changes + 1)
        return [self._library.fault_name(ctypes.c_long(i)).decode() for i in numbers]


def die_at(case: Case, path: Path, chunk_draws: int, n: int, how: str) -> tuple[bool, Told, str]:
    """Run until change n; whether it came to that."""
    told, faults = Told(), Faults()

    def run() -> None:
        faults.arm(path.parent, n, how)
        try:
            drive(case, path, chunk_draws, told)
        except OSError as error:
            if how == "full" and error.errno == 28 and error.filename:
                os._exit(3)
            raise

    status, said = in_child(run)
    if status == 0:
        return False, told, said
    died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    met = how == "full" and os.waitstatus_to_exitcode(status) == 3
    return True, told, "" if died or met else said or f"status {status}"


def one_point(
    case: Case, folder: Path, midway: Path | None, n: int, how: str
) -> dict[str, Any] | None:
    """Die at one change, read, go on in another process, compare; None if it never came to it."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    if midway is None:
        (folder / "work").mkdir()
    else:
        shutil.copytree(midway, folder / "work")
    path = folder / "work" / f"run.{case.suffix}"
    chunks = case.first_chunks() if midway is None else 5
    reached, told, failure = die_at(case, path, chunks, n, how)
    if not reached:
        return None

    def check() -> None:
        check_prefix(case, path, told)
        drive(case, path, 3, Told())
        check_whole(case, path, folder / "reference" / path.name)

    if not failure:
        status, failure = in_child(check)
        if status and not failure:
            failure = f"the process that went on ended with status {status}"
    return {"n": n, "how": how, "told": told.counts.tolist(), "failure": failure}


def points(case: Case, folder: Path, which: str, hows: list[str]) -> Iterator[dict[str, Any]]:
    """Deaths at every so many changes, of a run that begins and of one that goes on."""
    (folder / "reference").mkdir()
    whole = folder / "reference" / f"run.{case.suffix}"
    status, said = in_child(lambda: drive(case, whole, case.first_chunks(), Told()))
    assert status == 0, said
    names_at, midway = folder / "names.json", folder / "midway"

    def count(at: Path, chunk_draws: int) -> list[str]:
        def run() -> None:
            faults = Faults()
            faults.arm(at.parent, 0, "before")
            drive(case, at, chunk_draws, Told())
            names_at.write_text(json.dumps([faults.names(), checkpoints]))

        status, said = in_child(run)
        assert status == 0, said
        names: list[str]
        names, found = json.loads(names_at.read_text())
        checkpoints[:] = found
        return names

    (folder / "count").mkdir()
    names = count(folder / "count" / whole.name, case.first_chunks())
    third = checkpoints[2]
    midway.mkdir()
    late = range(int(len(names) * 0.6), len(names))
    if case.kind == "hdf5":  # in the midst of what HDF5 flushes, so that the file has to be mended
        late = [n for n in late if names[n - 2 : n] == ["pwrite", "pwrite"]]
    die_at(case, midway / whole.name, case.first_chunks(), late[0], "before")
    shutil.copytree(midway, folder / "count2")
    later = count(folder / "count2" / whole.name, 5)
    yield {"changes": {"begin": len(names), "resume": len(later)}}
    for scenario, ops in (("begin", names), ("resume", later)):
        if which == "checkpoint":
            picked = range(third[0], third[1] + 1 if scenario == "begin" else third[0])
        else:
            start, stop, every = which.split(":")
            picked = range(len(ops) + 1)[int(start) : int(stop or len(ops) + 1) : int(every)]
        for n, how in zip(picked, itertools.cycle(hows), strict=False):
            found = one_point(case, folder, None if scenario == "begin" else midway, n, how)
            if found is not None:
                yield {"scenario": scenario, "op": ops[n - 1], **found}


def main() -> None:
    text, where, which, *hows = sys.argv[1:]
    recorder.COMMIT_SHARE = 0.0  # commits come by `flush` alone, the same ones each time,
    recorder.CHECKPOINT_SHARE = 1e9  # and with every checkpoint
    folder = Path(where).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for found in points(Case.of(text), folder, which, hows):
        print(json.dumps(found), flush=True)
        if found.get("failure"):
            name = f"failed-{found['scenario']}-{found['n']}-{found['how']}"
            shutil.copytree(folder / "work", folder / name)


if __name__ == "__main__":
    main()
