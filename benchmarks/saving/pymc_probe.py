"""What PyMC's ZarrTrace takes to record draws of 100 floats. Run by `peers`, in PyMC's Python.

Usage: python pymc_probe.py DIRECTORY DRAWS ROUNDS
"""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pymc as pm
import zarr
from pymc.backends.zarr import ZarrTrace
from pymc.step_methods.compound import BlockedStep

N_FLOATS = 100


class Still(BlockedStep):
    """A step method without statistics: each would cost ZarrTrace one more file per draw."""

    stats_dtypes_shapes: dict = {}  # noqa: RUF012

    def __init__(self, vars, model):
        self.vars = vars

    def step(self, point):
        """Stay."""
        return point, [{}]


def record(model, path, draws, draws_per_chunk):
    """Seconds to record that many draws."""
    trace = ZarrTrace(zarr.DirectoryStore(path), draws_per_chunk=draws_per_chunk)
    with model:
        trace.init_trace(chains=1, draws=draws, tune=0, step=Still(model.value_vars, model=model))
    chain, draw = trace.straces[0], {"x": np.ones(N_FLOATS)}
    began = time.perf_counter()
    for _ in range(draws):
        chain.record(draw, [{}], in_warmup=False)
    return time.perf_counter() - began


def main():
    directory, draws, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with pm.Model() as model:
        pm.Normal("x", shape=N_FLOATS)
    wall_s = {1: [], 100: []}
    for turn in range(rounds + 1):
        for draws_per_chunk, taken in wall_s.items():
            took = record(model, str(directory), draws, draws_per_chunk)
            shutil.rmtree(directory)
            if turn:  # the first round warms up
                taken.append(took)
    print(json.dumps({"pymc": pm.__version__, "zarr": zarr.__version__, "wall_s": wall_s}))


if __name__ == "__main__":
    main()
