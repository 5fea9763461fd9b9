"""Rows `latency` and `step`: what a loader hides, of a network and behind a step."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.loading.data import BATCH_ROWS, CHUNK_ROWS, INNER, Data, make
from benchmarks.loading.job import Job
from benchmarks.loading.local import OURS, TO_JAX
from benchmarks.server import BUCKET, WAIT_S, served
from benchmarks.table import digits, seconds

STEP_S = 0.02  # of every batch
SEQUENTIAL = "zarr chunks"
REMOTE = ("obstore.get", SEQUENTIAL, "zarr windows", "insitubatch", OURS)


def latency(bench: Bench) -> list[Figure]:
    """A quarter of the rows, zstd, behind a server that waits."""
    data = Data.of(bench, part=4)
    place = f"s3://{BUCKET}/{make(data, 'zstd.zarr').name}"
    with served(data.folder) as environment:
        jobs = {name: Job(name, place, data.n_rows) for name in REMOTE}
        found = bench.measure("latency", jobs, environment)
    n_gets = data.n_rows // CHUNK_ROWS * len(INNER)
    # The target is for the GETs of chunks; metadata come before, one after another.
    epoch_s = {name: m.median("wall_s") - m.median("open_s") for name, m in found.items()}
    open_s = {name: m.median("open_s") for name, m in found.items()}
    what = f"{OURS}, seconds for {n_gets} chunks, {WAIT_S * 1e3:.0f} ms per GET"
    text = "; ".join(f"{name} {seconds(s)}" for name, s in epoch_s.items())
    if OURS not in found:
        text = f"{bench.absent[OURS]}; {text}"
    figures = [Figure("latency", what, epoch_s.get(OURS), text, at_most(0.6))]
    for name in found:
        if name != SEQUENTIAL and SEQUENTIAL in found:
            against = f"{seconds(epoch_s[SEQUENTIAL])} / {seconds(epoch_s[name])}"
            against += f", after {seconds(open_s[name])} to open"
            times = epoch_s[SEQUENTIAL] / epoch_s[name]
            figures.append(Figure("latency", f"{name}, speed / {SEQUENTIAL}", times, against))
    return figures


def step(bench: Bench) -> list[Figure]:
    """zstd, which is the slower, with and without a step that needs no CPU."""
    data = Data.of(bench)
    place, n_rows = str(make(data, "zstd.zarr")), data.n_rows
    names = (OURS, TO_JAX)
    jobs = {name: Job(name, place, n_rows) for name in names}
    jobs |= {f"{name}, step": Job(name, place, n_rows, step_s=STEP_S) for name in names}
    found = bench.measure("step", jobs)
    figures = []
    for name in names:
        target = at_least(0.8) if name == OURS else None
        what = f"{name}, share hidden behind a step of {STEP_S * 1e3:.0f} ms"
        if name not in found:
            if target is not None:
                figures.append(Figure("step", what, None, bench.absent[name], target))
            continue
        alone, stepped = found[name].timing, found[f"{name}, step"].timing
        steps_s = n_rows // BATCH_ROWS * STEP_S
        shares = [hidden(*pair, steps_s) for pair in zip(alone.wall_s, stepped.wall_s, strict=True)]
        share = hidden(alone.median_s, stepped.median_s, steps_s)
        text = (
            f"{digits(alone.median_s)} s alone, {digits(stepped.median_s)} s with "
            f"{digits(steps_s)} s of steps"
        )
        figures.append(Figure("step", what, share, text, target, min(shares), max(shares)))
    return figures


def hidden(alone_s: float, stepped_s: float, steps_s: float) -> float:
    """The share of loading that takes no time beside the steps.

    >>> hidden(2.0, 3.5, 3.0)
    0.75
    """
    return 1 - (stepped_s - steps_s) / alone_s
