"""Kills runs at random moments, over and over, and compares them with runs that nobody killed.

    uv run python tests/soak.py --kills 100 --where zarr,hdf5,s3,icechunk [--seed 0] [--folder DIR]

Each run is begun by a process, killed by SIGKILL, looked at, and gone on with by the next process,
with other settings of chunks, buffer and queue, until one comes to the end. Exit code 1 and the
store stays if a draw is missing, wrong, or other than in the run that was never interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from programs import resumable
from programs.whole_stores import Array, assert_same_arrays, assert_same_bits, decoded
from s3_server import S3Server, s3_environment

import jaxstore as js
from jaxstore.errors import FormatError, MissingError

LENGTH = 3000
EVERY = 100  # steps between checkpoints
PAUSE_S = {"scan": 0.004, "ragged": 0.004, "triple": 0.004}
LATEST_S = 2.0  # after the first step or the start, the moment of a kill
START_S = 120.0


@dataclass
class Tally:
    """What came of the kills at one kind of place."""

    where: str
    kills: int = 0
    runs: int = 0
    before_commit: int = 0  # kills after which there was nothing to open yet
    uncommitted: int = 0  # draws, at most, that were made and not committed
    again: int = 0  # steps, at most, that had to be made again
    seconds: float = 0.0
    states: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.where:5}  {self.kills:4} kills survived in {self.runs} runs, "
            f"{self.before_commit} before the first commit; committed draws lost: 0; "
            f"made and not committed: {self.uncommitted} draws at most; "
            f"made again: {self.again} steps at most; {self.seconds:.0f} s"
        )


@dataclass(frozen=True)
class Reference:
    """A run that was never interrupted."""

    run: Any
    leaves: list[Array]

    @staticmethod
    def of(how: str) -> Reference:
        collector = js.MemoryCollector()
        run = resumable.sampled(same_as(how), collector, LENGTH, every=EVERY)
        return Reference(run, [plain(leaf) for leaf in run.leaves])

    def made(self, steps: int) -> int:
        """Draws of all chains that so many steps make."""
        counts, iteration = self.run.sample_count, self.run.iteration
        return sum(int((iteration[c, :n] < steps).sum()) for c, n in enumerate(counts))


def same_as(how: str) -> str:
    """Another way to the same draws: the masks of "triple" are those of "ragged"."""
    return "ragged" if how == "triple" else how


def plain(leaf: Any) -> Array:
    return np.asarray(leaf.plain()[...])


def check_committed(run: Any, reference: Reference) -> None:
    """Each chain is the beginning of what it was to be."""
    counts = run.sample_count.tolist()
    steps = run.iteration
    leaves = [plain(leaf) for leaf in run.leaves]
    for chain, n in enumerate(counts):
        assert n <= reference.run.sample_count[chain]
        assert_same_bits(steps[chain, :n], reference.run.iteration[chain, :n], "iteration")
        for found, right, leaf in zip(leaves, reference.leaves, run.leaves, strict=True):
            assert_same_bits(found[chain, :n], right[chain, :n], f"{leaf.name} of {chain}")


def settings(rng: random.Random) -> list[str]:
    """Draws per chunk, draws on the device, bytes in the queue."""
    return [
        str(rng.choice([7, 50, 64, 300])),
        str(rng.choice([16, 40, 500])),
        str(rng.choice([1 << 12, 1 << 16, 1 << 28])),
    ]


def run_until(
    command: list[str], env: dict[str, str], delay_s: float, *, is_late: bool
) -> tuple[bool, int]:
    """Start a process and kill it so long after it said "started", or after its first step.

    Returns:
        Whether it was killed, and how many steps it had announced.
    """
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    said, deadline = b"", time.monotonic() + START_S
    while child.poll() is None and time.monotonic() < deadline:
        if select.select([child.stdout], [], [], 0.02)[0]:
            said += os.read(child.stdout.fileno(), 1 << 16)
        if b"started\n" in said and (not is_late or said.count(b"\n") > 1):
            deadline = min(deadline, time.monotonic() + delay_s)
            is_late = False
            said = said.replace(b"started\n", b"started \n")
    child.kill()
    out, err = child.communicate()
    said += out
    if child.returncode not in (0, -9) or b"started" not in said:
        raise AssertionError(f"the program ended with {child.returncode}: {err.decode()[-4000:]}")
    steps = [int(line) for line in said.split(b"\n")[:-1] if line.isdigit()]
    return child.returncode != 0, max(steps, default=0)


def look(url: str, reference: Reference, step: int, tally: Tally, *, before: int) -> int:
    """Check what a kill left; returns the step of its checkpoint."""
    try:
        run = js.open_run(resumable.place_at(url))
    except (MissingError, FormatError):
        assert before < 0, "a run with a commit does not open"
        tally.before_commit += 1
        return before
    with run:
        check_committed(run, reference)
        point = run._record.checkpoint
        at = 0 if point is None else point.step
        assert at >= before, f"the checkpoint went from step {before} back to {at}"
        tally.uncommitted = max(
            tally.uncommitted, reference.made(step) - int(run.sample_count.sum())
        )
        tally.again = max(tally.again, step - at)
        tally.states[run.state] = tally.states.get(run.state, 0) + 1
    return at


def one_run(
    how: str, url: str, env: dict[str, str], reference: Reference, rng: random.Random, tally: Tally
) -> None:
    """Begin a run, and kill and go on until it is complete."""
    checkpoint, wanted, in_vain = -1, None, 0
    while True:
        command = [
            sys.executable, resumable.__file__, how, url, *settings(rng),
            str(LENGTH), str(EVERY), str(PAUSE_S[how]),
        ]  # fmt: skip
        is_killed, step = run_until(
            # A machine under load comes nowhere in so little time, and the run would never end.
            command,
            env,
            rng.uniform(0, LATEST_S) * (1 + in_vain),
            is_late=rng.random() < 0.7,
        )
        if not is_killed:
            break
        tally.kills += 1
        before, checkpoint = checkpoint, look(url, reference, step, tally, before=checkpoint)
        in_vain = in_vain + 1 if checkpoint == before else 0
    with js.open_run(resumable.place_at(url)) as run:
        assert run.state == "complete"
        assert run.sample_count.tolist() == reference.run.sample_count.tolist()
        check_committed(run, reference)
    report = js.verify(resumable.place_at(url))
    assert report.is_sound, report
    with tempfile.TemporaryDirectory() as folder:
        suffix = ".h5" if url.endswith(".h5") else ".zarr"
        wanted = Path(folder) / f"whole{suffix}"
        made = js.HDF5Collector if suffix == ".h5" else js.ZarrCollector
        with made(wanted, group=None) as collector:
            resumable.sampled(same_as(how), collector, LENGTH, every=EVERY)
        assert_same_arrays(decoded(url), decoded(wanted))
    tally.runs += 1


@contextlib.contextmanager
def places(where: str, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where runs go, and what the environment has to say of it."""
    if where != "s3":
        yield f"{folder}/", {}
        return
    with S3Server() as server:
        env = s3_environment(server)
        os.environ.update(env)
        yield f"s3://{server.new_bucket()}/", env


def soak(where: str, n_kills: int, folder: Path, seed: int) -> Tally:
    """So many kills at one kind of place."""
    rng, tally, began = random.Random(f"{where} {seed}"), Tally(where), time.monotonic()
    references: dict[str, Reference] = {}
    with places(where, folder) as (base, more):
        env = os.environ | more | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        while tally.kills < n_kills:
            how = resumable.HOWS[tally.runs % len(resumable.HOWS)]
            if how not in references:
                references[how] = Reference.of(how)
            suffix = {"hdf5": "h5", "icechunk": "icechunk"}.get(where, "zarr")
            url = f"{base}{where}-{tally.runs}-{how}.{suffix}"
            try:
                one_run(how, url, env, references[how], rng, tally)
            except BaseException:
                print(f"failed after {tally.kills} kills, see {url}", file=sys.stderr)
                raise
            tally.seconds = time.monotonic() - began
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at each kind of place")
    parser.add_argument("--where", default="zarr,hdf5,s3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    is_sound = True
    for where in given.where.split(","):
        try:
            print(soak(where, given.kills, folder, given.seed), flush=True)
        except BaseException as error:
            is_sound = False
            traceback.print_exc()
            if not isinstance(error, Exception):
                break
    return int(not is_sound)


if __name__ == "__main__":
    sys.exit(main())
