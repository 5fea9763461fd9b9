"""Runs one process in children that are killed, one after the other, until it is complete.

python process_until_killed.py SOURCE TARGET N_KILLS SEED

Prints one JSON object per child: its engine, how it was killed, the units that were marked when it
began, and those that it computed. The first children are killed, by this process at a random moment
or by themselves at a given point; the last one is left to finish.

Children are forks of a process that has imported everything, but in which JAX has not begun.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback

import jax.numpy as jnp
import numpy as np

import jaxstore as js
from jaxstore.errors import JaxstoreError
from jaxstore.processing import carrying, ledger, session
from jaxstore.processing.job import Job
from jaxstore.processing.manifest import Manifest
from jaxstore.processing.work import Input
from jaxstore.stores.results import DONE
from jaxstore.stores.results_place import results_at

PAUSE_S = 0.003  # of each unit, so that kills meet units
LATEST_S = 0.1  # after the units that are waited for
ENGINES = [("serial", None), ("threads", 1), ("threads", 3)]
CALLS = {  # where a child kills itself: before the call of what
    "write": (Job, "run"),
    "mark": (ledger.Ledger, "note"),
    "marks": (ledger.Ledger, "_flush"),
    "manifest": (Manifest, "to_json"),
    "params": (session, "_write_params"),
    "finish": (carrying, "finish"),
}
POINTS = {"write": 40, "mark": 40, "marks": 6, "manifest": 1, "params": 1}  # at most which call


def kernel(x, *, table):
    """Zeros for many items, as they should be."""
    wave = jnp.sin(x * table)
    return {"wave": jnp.where(x[0] < 0.4, 0.0, wave), "at": (wave.max(), jnp.argmax(wave))}


def settings() -> dict:
    table = np.linspace(0, 3, 16).astype("f4")
    return {"params": {"table": table}, "chunks": 3, "batch_size": 2, "progress": False}


def kill_before(point: str, count: int) -> None:
    owner, name = CALLS[point]
    call, left = getattr(owner, name), [count]

    def dying(*args, **keywords):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **keywords)

    setattr(owner, name, dying)


def child(source: str, target: str, engine, plan, told) -> None:
    read = Input.read

    def noted(self, unit, items):
        told.write(f"{unit}\n")
        told.flush()
        time.sleep(PAUSE_S)
        return read(self, unit, items)

    Input.read = noted
    ledger._EVERY_S = 0.02
    if plan[0] in CALLS:
        kill_before(*plan)
    name, workers = engine
    js.process(kernel, source, target, engine=name, workers=workers, **settings())


def started(source: str, target: str, engine, plan):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, os.fdopen(reading)
    os.close(reading)
    code = 1
    with os.fdopen(writing, "w") as told:
        try:
            child(source, target, engine, plan, told)
            code = 0
        except BaseException:
            traceback.print_exc()
        told.flush()
        os._exit(code)


def done_units(target: str) -> list[list[int]]:
    """Of each result that is there, the units that are marked."""
    place = results_at(target)
    found = []
    for name, _ in place.manifests():
        group = place.open(name)
        found.append(np.flatnonzero(group.marks() == DONE).tolist())
        group.close()
    return found


def plan_of(rng: random.Random, left: int):
    """How a child is killed, of which so many are left."""
    if not left:
        return "end", 0
    if left <= 2:  # these compute all there is to do
        return [("finish", 1), ("manifest", 2)][left - 1]
    point = rng.choice(
        ["moment", "moment", "moment", "write", "mark", "marks", "manifest", "params"]
    )
    return point, rng.randint(1, POINTS[point]) if point in POINTS else 0


def one_child(source: str, target: str, rng: random.Random, *, left: int) -> None:
    try:
        before = done_units(target)
    except JaxstoreError as error:
        before = [[-1]]
        print(json.dumps({"unreadable": repr(error)}))
    plan = plan_of(rng, left)
    engine = rng.choice(ENGINES)
    pid, told = started(source, target, engine, plan)
    units = []
    with told:
        if plan[0] == "moment":
            for line in told:
                units.append(int(line))
                if len(units) >= rng.randint(1, 40):
                    break
            time.sleep(rng.uniform(0, LATEST_S))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        units += [int(line) for line in told if line.endswith("\n")]
    _, status = os.waitpid(pid, 0)
    found = {"engine": engine, "plan": plan, "before": before, "computed": units}
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print(json.dumps({**found, "killed": killed, "failed": not killed and status != 0}))


def main(source: str, target: str, n_kills: int, seed: int) -> None:
    rng = random.Random(seed)
    for n in range(n_kills + 1):
        one_child(source, target, rng, left=n_kills - n)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
