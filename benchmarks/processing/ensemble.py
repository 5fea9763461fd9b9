"""Paths of geometric Brownian motion, by jaxstore and by a loop written by hand.

Owned here: the simulation, its contenders, and whether paths are right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.processing.job import Job, Outputs, Read, Run
from benchmarks.processing.ours import warmed

STEPS, KEPT = 256, 64  # of a path; every fourth value is kept
DRIFT, VOLATILITY, HORIZON = 0.05, 0.2, 1.0
BLOCK_PATHS = 4096
SEED = 7


def path(key: Any, i: Any) -> dict[str, Any]:
    """Values of one path by Euler and Maruyama (1955), which starts at 1."""
    import jax
    import jax.numpy as jnp

    dt = HORIZON / STEPS
    noise = jax.random.normal(key, (STEPS,)) * math.sqrt(dt)
    values = jnp.cumprod(1 + DRIFT * dt + VOLATILITY * noise)
    return {"x": values[STEPS // KEPT - 1 :: STEPS // KEPT]}


def hand_written(job: Job) -> tuple[Run, Read]:
    """Blocks of paths, compiled once; each becomes a chunk."""
    import jax
    import jax.numpy as jnp
    import zarr

    jax.devices()

    def run() -> None:
        target = zarr.create_group(job.target).create_array(
            "x", shape=(job.n_items, KEPT), chunks=(BLOCK_PATHS, KEPT), dtype="f4", compressors=None
        )
        key = jax.random.key(SEED)
        many = jax.jit(jax.vmap(lambda i: path(jax.random.fold_in(key, i), i)))
        for start in range(0, job.n_items, BLOCK_PATHS):
            values = many(jnp.arange(start, start + BLOCK_PATHS))["x"]  # of the last, some too many
            target[start : start + BLOCK_PATHS] = np.asarray(values)[: job.n_items - start]

    def read(items: slice) -> Outputs:
        return {"x": zarr.open_array(f"{job.target}/x", mode="r")[items]}

    return run, read


def jaxstore(job: Job) -> tuple[Run, Read]:
    """`js.ensemble` in the calling thread."""
    import jax

    js = warmed()

    def run() -> None:
        js.ensemble(
            path,
            job.n_items,
            job.target,
            key=jax.random.key(SEED),
            name="path",
            memory=job.memory_bytes,
            compression=None,
            engine="serial",
            progress=False,
        )

    def read(items: slice) -> Outputs:
        (result,) = js.find(job.target)
        return {"x": np.asarray(result["x"][items])}

    return run, read


def is_right(found: Outputs) -> bool:
    """Whether mean and variance at the end are those of the closed form, within five errors."""
    ends = found["x"][:, -1].astype("f8")
    mean = math.exp(DRIFT * HORIZON)
    variance = mean**2 * (math.exp(VOLATILITY**2 * HORIZON) - 1)
    fourth = float(np.mean((ends - ends.mean()) ** 4))
    off = abs(ends.mean() - mean) / math.sqrt(variance / len(ends))
    off_variance = abs(ends.var() - variance) / math.sqrt((fourth - variance**2) / len(ends))
    return len(ends) > 1 and off < 5 and off_variance < 5


CONTENDERS = {"hand-written, paths": hand_written, "jaxstore, paths": jaxstore}
