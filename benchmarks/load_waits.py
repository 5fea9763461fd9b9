"""Rows `latency` and `step`: what a loader hides, of a network and behind a step."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Figure, at_least, at_most
from load_bench import LoadBench
from load_data import BATCH_ROWS, CHUNK_ROWS, INNER, Data, make
from load_job import Job
from load_local import OURS, PEERS
from load_server import BUCKET
from table import digits, seconds

WAIT_S = 0.03  # of every GET
STEP_S = 0.02  # of every batch
SEQUENTIAL = "zarr chunks"
REMOTE = ("obstore.get", SEQUENTIAL, "zarr windows", "insitubatch", OURS)
STEPPED = (OURS, f"{OURS} to JAX", *PEERS, "hand-written")


def latency(bench: LoadBench) -> list[Figure]:
    """A quarter of the rows, zstd, behind a server that waits."""
    data = Data(bench.data.folder, max(BATCH_ROWS, bench.data.n_rows // 4))
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


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """A server for a folder; the variables that lead obstore to it."""
    program = Path(__file__).parent / "load_server.py"
    with subprocess.Popen(
        [sys.executable, program, folder, str(WAIT_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            yield {
                "AWS_ACCESS_KEY_ID": "bench",
                "AWS_SECRET_ACCESS_KEY": "bench",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
            }
        finally:
            server.stdin.close()


def step(bench: LoadBench) -> list[Figure]:
    """zstd, which is the slower, with and without a step that needs no CPU."""
    place, n_rows = str(make(bench.data, "zstd.zarr")), bench.data.n_rows
    jobs = {name: Job(name, place, n_rows) for name in STEPPED}
    jobs |= {f"{name}, step": Job(name, place, n_rows, step_s=STEP_S) for name in STEPPED}
    found = bench.measure("step", jobs)
    figures = []
    for name in STEPPED:
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
