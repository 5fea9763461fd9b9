"""jaxstore, as a user has it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from benchmarks.probe import import_jaxstore
from benchmarks.processing.data import ARRAY, CHUNK_ROWS, N_VALUES
from benchmarks.processing.job import Job, Outputs, Read, Run
from benchmarks.processing.kernels import KERNELS, peak


def warmed() -> Any:
    """jaxstore, with all that is imported and started when it is first needed."""
    import jax

    js = import_jaxstore()
    jax.devices()
    return js


def process(job: Job, engine: str = "threads") -> tuple[Run, Read]:
    """The whole call, from looking for earlier results to the seal of a complete one."""
    js = warmed()

    def run() -> None:
        compute(js, job, engine=engine, memory=job.memory_bytes)

    return run, functools.partial(read_results, js, job)


def process_warm(job: Job) -> tuple[Run, Read]:
    """After one of a few items, so that a compiler's memory is no part of what it adds."""
    js = warmed()
    few = np.zeros((CHUNK_ROWS, N_VALUES), np.float32)
    js.process(KERNELS[job.kernel].of_item, few, "memory", progress=False)
    return process(job)


def compute(js: Any, job: Job, **settings: Any) -> None:
    """One call."""
    js.process(
        KERNELS[job.kernel].of_item,
        f"{job.place}:/{ARRAY}",
        job.target,
        name=job.kernel,
        compression=None,
        progress=False,
        **settings,
    )


def read_results(js: Any, job: Job, items: slice) -> Outputs:
    """What was written."""
    (result,) = js.find(job.target)
    if result.state != "complete":
        raise ValueError(f"{job.target} is {result.state}")
    return {name: np.asarray(result[name][items]) for name in KERNELS[job.kernel].shapes}


def scaled_peak(x: Any, *, by: float) -> dict[str, Any]:
    """`peak` with a parameter."""
    found = peak(x)
    return {"amp": found["amp"] * by, "pos": found["pos"]}


def find_again(job: Job) -> tuple[Run, Read]:
    """A complete result of the whole source's first items, among others of the same process."""
    js = warmed()
    again = functools.partial(
        js.process,
        scaled_peak,
        f"{job.place}:/{ARRAY}",
        job.target,
        name=job.kernel,
        select=slice(0, job.n_items),
        progress=False,
    )
    for k in range(len(js.find(job.target)), job.n_results):
        again(params={"by": k + 1.0})
    wanted = {"by": job.n_results // 2 + 1.0}

    def run() -> None:
        again(params=wanted)

    def read(items: slice) -> Outputs:
        if len(js.find(job.target)) != job.n_results:
            raise ValueError(f"{job.target}: computed again")
        (result,) = js.find(job.target, params=wanted)
        return {"amp": result["amp"][items] / wanted["by"], "pos": result["pos"][items]}

    return run, read


CONTENDERS = {
    "jaxstore": process,
    "jaxstore, serial": functools.partial(process, engine="serial"),
    "jaxstore, warm": process_warm,
    "jaxstore, found": find_again,
}
