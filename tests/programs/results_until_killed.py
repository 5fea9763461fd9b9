"""Fills a result in children that are killed, one after the other, and tells what they told.

python results_until_killed.py FOLDER N_KILLS SEED

Prints one JSON object per child: the units that it said were marked, and after its end the marks,
the units among them whose values are wrong, and the names of all results. Every child opens the
result as its owner, fills what is not done, replaces all marks now and then, and makes another,
small result beside it, so that kills fall into that as well.
"""

import json
import os
import random
import signal
import sys
import time
from typing import Any

import numpy as np
from contract_results import NAME, array, fill, made, rows, values

from jaxstore.stores.results import DONE
from jaxstore.stores.results_zarr import ZarrResults

N_UNITS = 3000
LATEST_S = 0.02  # after the last unit that is waited for
EVERY = 7  # units: then all marks are replaced, and a result is made


def work(path: str, told: Any) -> None:
    place = ZarrResults(path)
    group = place.open(NAME, role="owner")
    group.join(lambda unit: ())
    for n, unit in enumerate(np.flatnonzero(group.marks() != DONE).tolist()):
        fill(group, unit)
        told.write(f"{unit}\n")
        told.flush()
        if n % EVERY == EVERY - 1:
            group.set_marks(group.marks())
            made(place, array("a/b"), array("c"), name=f"other-{os.getpid()}_{n:03d}").close()


def killed_child(path: str, n_units: int, delay_s: float) -> list[int]:
    """The units that a child told of before it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as told:
            work(path, told)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        units = [int(told.readline()) for _ in range(n_units)]
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        return units + [int(line) for line in told if line.endswith("\n")]


def main(path: str, n_kills: int, seed: int) -> None:
    rng = random.Random(seed)
    place = ZarrResults(path)
    for _ in range(n_kills):
        told = killed_child(path, rng.randint(1, 20), rng.uniform(0, LATEST_S))
        group = place.open(NAME)
        marks = group.marks()
        done = np.flatnonzero(marks == DONE).tolist()
        wrong = [
            unit
            for unit in done
            if group.read("amp", rows(unit), is_strict=True).tobytes() != values(unit).tobytes()
        ]
        names = [name for name, _ in place.manifests()]
        half_made = [
            name for name in names if place.open(name).names() not in (["a/b", "c"], ["amp"])
        ]
        print(json.dumps({"told": told, "done": done, "wrong": wrong, "half_made": half_made}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
