"""Rows of the processing benchmark: which contenders compute what, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from figures import Figure, Target, at_least, at_most
from load_bench import LoadBench, Measured
from load_server import BUCKET
from load_waits import WAIT_S, served
from process_data import CHUNK_ROWS, Data, make, remove
from process_job import Job
from table import seconds

ITEMS = 122_880  # 2 GB, of which a tenth may be in memory
ROWS = (
    "peak_zarr", "peak_hdf5", "line_zarr", "line_hdf5", "pyusid", "fixed", "again", "ensemble",
    "latency",
)  # fmt: skip
OURS, SERIAL, WARM = "jaxstore", "jaxstore, serial", "jaxstore, warm"
HAND = ("hand-written", "hand-written, ahead")
BOUNDS = ("cat", "write", "compute", "compute, two at once")
DASK = ("dask, NumPy", "dask, JAX")
TOP = "jaxstore, top_k"  # another kernel for the same
FOUND = "jaxstore, found"
PYUSID = ("pyUSID, one core", "pyUSID, two cores")
MIB = 2**20
SLACK_BYTES = 64 * MIB  # beside `memory`, as `process` says
N_RESULTS = 300
N_PATHS = 100_000
SOURCE_TIMES = 10  # the source is so many times the limit
REMOTE_CHUNKS = 128
OURS_TO_HAND = at_most(1.15)
Found = Mapping[str, Measured]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows, on spectra of one length."""

    bench: LoadBench
    is_small: bool  # only shows that it works

    @property
    def data(self) -> Data:
        """The spectra."""
        return self.bench.data

    def job(self, contender: str, place: Path | str, kernel: str, **settings: int) -> Job:
        """One, on all items unless it is said, in a tenth of the bytes of all."""
        n_items = settings.pop("n_items", self.data.n_rows)
        suffix = ".h5" if str(place).endswith(".h5") else ".zarr"
        target = self.data.folder / f"result-{contender.replace(', ', '-').replace(' ', '-')}"
        return Job(
            contender=contender,
            kernel=kernel,
            place=str(place),
            n_items=n_items,
            target=f"{target}{suffix}",
            memory_bytes=max(32 * MIB, self.data.n_bytes // SOURCE_TIMES),
            **settings,
        )

    def peak_zarr(self) -> list[Figure]:
        """Much work, small outputs."""
        return self.local("peak_zarr", "raw.zarr", "peak", (*BOUNDS, *HAND, *DASK))

    def peak_hdf5(self) -> list[Figure]:
        """The same in HDF5."""
        return self.local("peak_hdf5", "raw.h5", "peak", ("cat", *HAND))

    def line_zarr(self) -> list[Figure]:
        """Little work, an output as large as the source."""
        return self.local("line_zarr", "raw.zarr", "line", (*BOUNDS, *HAND, *DASK))

    def line_hdf5(self) -> list[Figure]:
        """The same in HDF5."""
        return self.local("line_hdf5", "raw.h5", "line", ("cat", *HAND))

    def local(self, row: str, store: str, kernel: str, others: tuple[str, ...]) -> list[Figure]:
        """Ours and others on one store in the page cache."""
        place = make(self.data, store)
        names = (*others, OURS, SERIAL, WARM)
        jobs = {name: self.job(name, place, kernel) for name in names}
        if kernel == "peak":
            jobs |= {TOP: self.job(OURS, place, "top")}
        found = self.bench.measure(row, jobs)
        figures = [self.slower(row, found, OURS, name, OURS_TO_HAND) for name in HAND]
        figures += [self.faster(row, found, name, at_least(2)) for name in DASK if name in others]
        if kernel == "peak":
            figures += [self.faster(row, found, name, ours=TOP) for name in DASK if name in others]
        figures += [self.slower(row, found, SERIAL, name) for name in HAND]
        figures += [self.slower(row, found, OURS, name) for name in BOUNDS if name in others]
        return [*figures, *self.memory(row, found)]

    def memory(self, row: str, found: Found) -> list[Figure]:
        """What ours adds, over imports and over a run of a few items."""
        limit = self.job(OURS, "", "peak").memory_bytes + SLACK_BYTES
        figures = []
        for name, since, target in (
            (WARM, "a run of a few items", at_most(1)),
            (OURS, "imports", None),
        ):
            what = f"jaxstore, memory over {since} / {limit / MIB:.0f} MiB: memory= and 64 MiB"
            value, text = None, self.bench.absent.get(name, "")
            if name in found:
                value = found[name].median("added_bytes") / limit
                text = "; ".join(
                    f"{other} {each.median('added_bytes') / MIB:.0f} MiB"
                    for other, each in found.items()
                    if other not in BOUNDS and other in (name, *HAND, *DASK, *PYUSID)
                )
            figures.append(Figure(row, what, value, text, target))
        return figures

    def pyusid(self) -> list[Figure]:
        """A quarter of the spectra, as pyUSID calls Python for each."""
        n_chunks = max(1, self.data.n_rows // 4 // CHUNK_ROWS)
        data = Data(self.data.folder, n_chunks * CHUNK_ROWS)
        place = make(data, "usid.h5")
        names = (*PYUSID, OURS)
        jobs = {name: self.job(name, place, "peak", n_items=data.n_rows) for name in names}
        jobs |= {TOP: self.job(OURS, place, "top", n_items=data.n_rows)}
        found = self.bench.measure("pyusid", jobs)
        # With one core pyUSID uses no joblib, for which the target is.
        targets = dict(zip(PYUSID, (None, at_least(5)), strict=True))
        return [
            self.faster("pyusid", found, name, target if ours == OURS else None, ours=ours)
            for ours in (OURS, TOP)
            for name, target in targets.items()
        ]

    def fixed(self) -> list[Figure]:
        """One chunk: what a call costs, however few the items."""
        data = Data(self.data.folder, CHUNK_ROWS)
        place = make(data, "raw.zarr")
        names = (HAND[0], OURS, SERIAL)
        jobs = {name: self.job(name, place, "peak", n_items=data.n_rows) for name in names}
        found = self.bench.measure("fixed", jobs)
        return [self.slower("fixed", found, name, HAND[0]) for name in (OURS, SERIAL)]

    def again(self) -> list[Figure]:
        """A call that finds its result complete, alone and among many."""
        place, figures = make(self.data, "raw.zarr"), []
        counts = {"one result": 1, "many results": 4 if self.is_small else N_RESULTS}
        jobs = {}
        for label, n_results in counts.items():
            job = self.job(FOUND, place, "peak", n_items=CHUNK_ROWS, n_results=n_results)
            target = self.data.folder / f"results-{n_results}.zarr"
            remove(target)  # of an earlier jaxstore, perhaps
            jobs[label] = replace(job, target=str(target))
        found = self.bench.measure("again", jobs)
        for label, n_results in counts.items():
            what = f"jaxstore, seconds to find a complete result among {n_results}"
            value = found[label].timing.median_s
            low, high = min(found[label].timing.wall_s), max(found[label].timing.wall_s)
            figures.append(Figure("again", what, value, seconds(value), None, low, high))
        return figures

    def ensemble(self) -> list[Figure]:
        """Simulations that read nothing."""
        n_paths = 2048 if self.is_small else N_PATHS
        names = ("hand-written, paths", "jaxstore, paths")
        jobs = {name: self.job(name, "", "path", n_items=n_paths) for name in names}
        found = self.bench.measure("ensemble", jobs)
        return [self.slower("ensemble", found, names[1], names[0], OURS_TO_HAND)]

    def latency(self) -> list[Figure]:
        """Chunks behind a server that waits before each."""
        n_chunks = min(REMOTE_CHUNKS, self.data.n_rows // CHUNK_ROWS)
        data = Data(self.data.folder, n_chunks * CHUNK_ROWS)
        place = f"s3://{BUCKET}/{make(data, 'raw.zarr').name}"
        names = ("chunk by chunk", *HAND, OURS)
        jobs = {name: self.job(name, place, "peak", n_items=data.n_rows) for name in names}
        with served(data.folder) as environment:
            found = self.bench.measure("latency", jobs, environment)
        waits = f", {n_chunks} chunks, {WAIT_S * 1e3:.0f} ms per GET"
        return [self.faster("latency", found, name, note=waits) for name in names[:-1]]

    def slower(
        self, row: str, found: Found, a: str, b: str, target: Target | None = None
    ) -> Figure:
        """How many times as long `a` takes as `b`."""
        what = f"{a}, seconds / {b}"
        for name in (a, b):
            if name not in found:
                return Figure(row, what, None, self.bench.absent[name], target)
        times = found[b].faster_than(found[a])
        against = " / ".join(seconds(found[name].timing.median_s) for name in (a, b))
        return Figure(row, what, times.value, against, target, times.low, times.high)

    def faster(
        self,
        row: str,
        found: Found,
        other: str,
        target: Target | None = None,
        *,
        ours: str = OURS,
        note: str = "",
    ) -> Figure:
        """How many times faster ours is than another."""
        what = f"{ours}, speed / {other}"
        for name in (ours, other):
            if name not in found:
                return Figure(row, what, None, self.bench.absent[name], target)
        times = found[ours].faster_than(found[other])
        against = " / ".join(seconds(found[name].timing.median_s) for name in (ours, other))
        return Figure(row, what, times.value, against + note, target, times.low, times.high)
