"""Rows of single calls: pyUSID, one chunk, a result that is there, an ensemble, a slow server."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.measured import Comparison
from benchmarks.processing.data import CHUNK_ROWS, N_ROWS, Data, make
from benchmarks.processing.stores import HAND, OURS, OURS_TO_HAND, SERIAL, TOP, job
from benchmarks.server import BUCKET, WAIT_S, served
from benchmarks.table import seconds

FOUND = "jaxstore, found"
PYUSID = ("pyUSID, one core", "pyUSID, two cores")
N_RESULTS = 300
N_PATHS = 100_000
REMOTE_CHUNKS = 64


def pyusid(bench: Bench) -> list[Figure]:
    """Half of the spectra, as pyUSID calls Python for each."""
    data = Data.of(bench, n_rows=N_ROWS // 2)
    place = make(data, "usid.h5")
    jobs = {name: job(bench, name, place, "peak", data.n_rows) for name in (*PYUSID, OURS)}
    jobs[TOP] = job(bench, OURS, place, "top", data.n_rows)
    compare = Comparison("pyusid", bench.measure("pyusid", jobs), bench.absent)
    # With one core pyUSID uses no joblib, for which the target is.
    return [
        compare.faster(OURS, PYUSID[1], at_least(5)),
        compare.faster(OURS, PYUSID[0]),
        *(compare.faster(TOP, name) for name in PYUSID),
    ]


def fixed(bench: Bench) -> list[Figure]:
    """One chunk: what a call costs, however few the items."""
    place = make(Data(bench.folder, CHUNK_ROWS), "raw.zarr")
    jobs = {n: job(bench, n, place, "peak", CHUNK_ROWS) for n in (HAND[0], OURS, SERIAL)}
    compare = Comparison("fixed", bench.measure("fixed", jobs), bench.absent)
    return [compare.slower(name, HAND[0]) for name in (OURS, SERIAL)]


def again(bench: Bench) -> list[Figure]:
    """A call that finds its result complete, alone and among many."""
    place, figures = make(Data.of(bench), "raw.zarr"), []
    jobs = {
        f"jaxstore, found among {n}": replace(
            job(bench, FOUND, place, "peak", CHUNK_ROWS), n_results=n
        )
        for n in (1, 4 if bench.is_quick else N_RESULTS)
    }
    found = bench.measure("again", jobs)
    bench.wipe()
    for name, each in jobs.items():
        what = f"jaxstore, seconds to find a complete result among {each.n_results}"
        if name not in found:
            figures.append(Figure("again", what, None, bench.absent[name]))
            continue
        timing = found[name].timing
        value, low, high = timing.median_s, min(timing.wall_s), max(timing.wall_s)
        figures.append(Figure("again", what, value, seconds(value), None, low, high))
    return figures


def ensemble(bench: Bench) -> list[Figure]:
    """Simulations that read nothing."""
    n_paths = 2048 if bench.is_quick else N_PATHS
    names = ("hand-written, paths", "jaxstore, paths")
    jobs = {name: job(bench, name, "", "path", n_paths) for name in names}
    compare = Comparison("ensemble", bench.measure("ensemble", jobs), bench.absent)
    return [compare.slower(names[1], names[0], OURS_TO_HAND)]


def remote(bench: Bench) -> list[Figure]:
    """Chunks behind a server that waits before each."""
    data = Data.of(bench, n_rows=REMOTE_CHUNKS * CHUNK_ROWS)
    place = f"s3://{BUCKET}/{make(data, 'raw.zarr').name}"
    names = ("chunk by chunk", *HAND, OURS)
    jobs = {name: job(bench, name, place, "peak", data.n_rows) for name in names}
    with served(data.folder) as environment:
        found = bench.measure("remote", jobs, environment)
    compare = Comparison("remote", found, bench.absent)
    n_chunks = data.n_rows // CHUNK_ROWS
    waits = f", {n_chunks} chunks, {WAIT_S * 1e3:.0f} ms per GET"
    return [compare.faster(OURS, name, note=waits) for name in names[:-1]]
