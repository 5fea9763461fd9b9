"""What the ranks of an MPI job do with `process`; started by the tests.

mpiexec -n 3 python process_ranks.py COMMAND FOLDER

Each rank writes the units that it runs to FOLDER/units-COMMAND-RANK, a line for each call of
`process`.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp

from jaxstore.processing import engines
from jaxstore.processing.job import Job
from jaxstore.processing.ledger import Ledger
from jaxstore.processing.process import process
from jaxstore.topology import place

REDUCTIONS = ("mean", "sum", "min", "max", "variance")
TARGETS = ("out.zarr", "out.h5")
PARAMS = {"scale": 3.0, "many": [0.5, -1.0, 2.0]}
SELECT = [7, 1, 0, 39, *range(9, 30)]


def peak(x, *, scale, many):
    y = jnp.abs(jnp.fft.rfft(x * scale))
    return {"amp": y, "at": {"pos": jnp.argmax(y), "of": jnp.sum(y) * jnp.asarray(many)}}


def total(x):
    return {"whole": jnp.exp(jnp.sin(x)), "part": jnp.sum(x)}


def peaks(folder, target, **settings):
    options = {"params": PARAMS, "chunks": 2, "batch_size": 2, "progress": False}
    return process(peak, f"{folder}/raw.zarr:/x", target, name="peak", **options | settings)


def reduced(folder, target, reduction, **settings):
    options = {"chunks": 3, "batch_size": 2, "progress": False}
    return process(
        total, f"{folder}/raw.zarr:/x", target, name=reduction, reduce=reduction,
        **options | settings,
    )  # fmt: skip


class Noted:
    """Notes the units that run here, and does something first, such as to fail."""

    def __init__(self, folder):
        self._notes = folder / f"units-{sys.argv[1]}-{place().rank}"
        self._run = Job.run
        self.first = lambda unit: None
        Job.run = lambda job, unit, turn=None: self.run(job, unit, turn)

    def next(self):
        """End the line, before another call."""
        with self._notes.open("a") as notes:
            notes.write("\n")

    def run(self, job, unit, turn):
        with self._notes.open("a") as notes:
            notes.write(f"{unit} ")
        self.first(unit)
        self._run(job, unit, turn)


def same(folder, noted):
    """The same as one process, in Zarr and HDF5, and beside the source; then found again."""
    for target in (*TARGETS, "begun.zarr", "begun.h5"):
        peaks(folder, folder / target, engine=None)  # as `mpi`, where there are ranks
        noted.next()
    peaks(folder, folder / "some.zarr", engine="mpi", workers=2, select=SELECT)
    process(
        peak, f"{folder}/raw.h5:/deep/x", None, params=PARAMS, chunks=2, batch_size=2, engine="mpi"
    )
    noted.next()
    for reduction in REDUCTIONS:
        reduced(folder, folder / "out.zarr", reduction, engine="mpi")
    reduced(folder, folder / "out.h5", "mean", engine="mpi")
    noted.next()
    for target in TARGETS:
        res = peaks(folder, folder / target, engine="mpi")
        assert (res.name, res.state) == ("x-peak_000", "complete")


def trouble(folder, noted):
    """Loads of few units; a rank that fails or is interrupted; calls that are not all the same."""
    rank = place().rank
    peaks(folder, folder / "seven.zarr", select=slice(0, 14))
    noted.next()
    for target, error in (("fail.zarr", ValueError), ("stop.h5", KeyboardInterrupt)):
        noted.first = lambda unit, error=error: unlucky(unit, error)
        report(folder, target, lambda target=target: peaks(folder, folder / target, chunks=1))
        noted.next()
    noted.first = lambda unit: None
    other = {**PARAMS, "scale": 7.0 + (rank == 1)}
    report(folder, "memory", lambda: peaks(folder, "memory"))
    report(folder, "other", lambda: peaks(folder, folder / "other.zarr", params=other))
    there = folder / "not-there" if rank == 1 else folder
    report(folder, "absent", lambda: peaks(there, folder / "absent.zarr"))
    noted.first = lambda unit: unlucky(unit, ValueError)
    peaks(folder, folder / "last.zarr")


def unlucky(unit, error):
    """Unit 6 fails, which is the second of rank 2; all others take long."""
    if unit != 6:
        time.sleep(0.1)
    elif error is KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    else:
        raise error("no such peak")


def report(folder, name, call):
    try:
        call()
    except BaseException as error:
        notes = " | ".join(getattr(error, "__notes__", ()))
        text = f"{type(error).__name__}: {error} {notes}".strip()
        (folder / f"{name}-{place().rank}").write_text(text)


def killed(folder, noted):
    """One rank is killed at the first unit that it begins after its first marks are at rest."""
    target, victim = sys.argv[3:]
    is_marked = threading.Event()
    mark = Ledger._flush

    def mark_and_tell(ledger):
        mark(ledger)
        is_marked.set()

    def first(unit):
        if place().rank == int(victim) and is_marked.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)

    Ledger._flush = mark_and_tell
    noted.first = first
    peaks(folder, folder / target, chunks=1)


if __name__ == "__main__":
    engines._PAUSE_S = 0.05  # so that ranks soon hear of one another
    where = Path(sys.argv[2])
    globals()[sys.argv[1]](where, Noted(where))
