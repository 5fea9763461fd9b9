"""Rows `peak_*` and `line_*`: a function over a local store in the page cache, into another."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least, at_most
from benchmarks.measured import Comparison
from benchmarks.processing.data import Data, make
from benchmarks.processing.job import Job

OURS, SERIAL, WARM = "jaxstore", "jaxstore, serial", "jaxstore, warm"
TOP = "jaxstore, top_k"  # another kernel for the same
HAND = ("hand-written", "hand-written, ahead")
DASK = ("dask, NumPy", "dask, JAX")
MIB = 2**20
SLACK_BYTES = 64 * MIB  # beside `memory`, as `process` says
SOURCE_TIMES = 10  # the source is so many times the limit
OURS_TO_HAND = at_most(1.15)


def peak_zarr(bench: Bench) -> list[Figure]:
    """Much work, small outputs."""
    bounds = ("cat", "compute, two at once")
    compare = measure(bench, "peak_zarr", "raw.zarr", "peak", (*bounds, *DASK, SERIAL), top=True)
    return [
        *against_hand(compare),
        *(compare.faster(OURS, name, at_least(2)) for name in DASK),
        *(compare.faster(TOP, name) for name in DASK),
        compare.slower(SERIAL, HAND[0]),
        *(compare.slower(OURS, name) for name in bounds),
        *memory(bench, compare),
    ]


def peak_hdf5(bench: Bench) -> list[Figure]:
    """The same in HDF5."""
    compare = measure(bench, "peak_hdf5", "raw.h5", "peak", ())
    return [*against_hand(compare), *memory(bench, compare)]


def line_zarr(bench: Bench) -> list[Figure]:
    """Little work, an output as large as the source."""
    compare = measure(bench, "line_zarr", "raw.zarr", "line", ("write", *DASK))
    return [
        *against_hand(compare),
        *(compare.faster(OURS, name, at_least(2)) for name in DASK),
        compare.slower(OURS, "write"),
        *memory(bench, compare),
    ]


def line_hdf5(bench: Bench) -> list[Figure]:
    """The same in HDF5."""
    compare = measure(bench, "line_hdf5", "raw.h5", "line", ())
    return [*against_hand(compare), *memory(bench, compare)]


def job(bench: Bench, contender: str, place: Path | str, kernel: str, n_items: int) -> Job:
    """One, that may take a tenth of the bytes of all spectra."""
    suffix = ".h5" if str(place).endswith(".h5") else ".zarr"
    return Job(
        contender=contender,
        kernel=kernel,
        place=str(place),
        n_items=n_items,
        target=str(bench.fresh(suffix)),
        memory_bytes=memory_bytes(bench),
    )


def memory_bytes(bench: Bench) -> int:
    """What `memory=` says."""
    return max(32 * MIB, Data.of(bench).n_bytes // SOURCE_TIMES)


def measure(
    bench: Bench, row: str, store: str, kernel: str, others: tuple[str, ...], *, top: bool = False
) -> Comparison:
    """Ours, the loops written by hand, and others."""
    data = Data.of(bench)
    place = make(data, store)
    jobs = {
        name: job(bench, name, place, kernel, data.n_rows) for name in (*others, *HAND, OURS, WARM)
    }
    if top:
        jobs[TOP] = job(bench, OURS, place, "top", data.n_rows)
    return Comparison(row, bench.measure(row, jobs), bench.absent)


def against_hand(compare: Comparison) -> list[Figure]:
    """What it costs that a result is marked and found again."""
    return [compare.slower(OURS, name, OURS_TO_HAND) for name in HAND]


def memory(bench: Bench, compare: Comparison) -> list[Figure]:
    """What ours adds, over imports and over a run of a few items."""
    limit = memory_bytes(bench) + SLACK_BYTES
    figures = []
    judged, told = (WARM, "a run of a few items", at_most(1)), (OURS, "imports", None)
    for name, since, target in (judged, told):
        what = f"jaxstore, memory over {since} / {limit / MIB:.0f} MiB: memory= and 64 MiB"
        value, text = None, compare.absent.get(name, "")
        if name in compare.found:
            value = compare.found[name].median("added_bytes") / limit
            text = "; ".join(
                f"{other} {compare.found[other].median('added_bytes') / MIB:.0f} MiB"
                for other in (name, *HAND, *DASK)
                if other in compare.found
            )
        figures.append(Figure(compare.row, what, value, text, target))
    return figures
