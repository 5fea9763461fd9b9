"""Rows `zarr_*` and `hdf5_*`: shuffled epochs of local stores in the page cache."""

from __future__ import annotations

from collections.abc import Callable

from figures import Figure, Target, at_least, at_most
from load_bench import LoadBench, Measured
from load_data import BATCH_ROWS, CHUNK_ROWS, ROW_BYTES, WINDOW_CHUNKS, make
from load_job import Job
from table import seconds

OURS = "jaxstore"
MIB = 2**20
PEERS = ("insitubatch", "annbatch", "grain", "xbatcher (unshuffled)")
BOUNDS = ("cat", "memcpy", "read + decode", "zarr chunks", "hand-written")
TARGET_BYTES = 16384 * ROW_BYTES  # for which CPU time has a target
# What a loader must hold: a window that is drained, one that fills, a batch in each of three hands.
NEEDED_BYTES = (2 * WINDOW_CHUNKS * CHUNK_ROWS + 3 * BATCH_ROWS) * ROW_BYTES


def zarr_raw(bench: LoadBench) -> list[Figure]:
    """Chunks as they are."""
    found = measure(bench, "zarr_raw", "raw.zarr", (*BOUNDS, *PEERS))
    targets = {"cat": at_least(0.5), "insitubatch": at_least(3)}
    return [
        *speeds(bench, "zarr_raw", found, targets),
        *costs(bench, "zarr_raw", found, cpu=at_most(0.5), first=at_most(0.1)),
    ]


def zarr_zstd(bench: LoadBench) -> list[Figure]:
    """Zarr's default compression."""
    found = measure(bench, "zarr_zstd", "zstd.zarr", (*BOUNDS, *PEERS))
    targets = {"read + decode": at_least(0.85)}
    return [*speeds(bench, "zarr_zstd", found, targets), *costs(bench, "zarr_zstd", found)]


def hdf5_raw(bench: LoadBench) -> list[Figure]:
    """Chunks of HDF5 without filters."""
    others = ("cat", "read + decode", "h5py slices", "h5py slices, shuffled", "hand-written")
    found = measure(bench, "hdf5_raw", "raw.h5", others)
    targets = {"h5py slices": at_least(2), "h5py slices, shuffled": at_least(2)}
    return [*speeds(bench, "hdf5_raw", found, targets), *costs(bench, "hdf5_raw", found)]


def hdf5_gzip(bench: LoadBench) -> list[Figure]:
    """Shuffle and gzip."""
    found = measure(bench, "hdf5_gzip", "gzip.h5", ("h5py slices", "h5py slices, shuffled"))
    return [*speeds(bench, "hdf5_gzip", found, {}), *costs(bench, "hdf5_gzip", found)]


def measure(bench: LoadBench, row: str, store: str, others: tuple[str, ...]) -> dict[str, Measured]:
    """Ours and others on one store; later epochs have memory that was touched before."""
    place, n_rows = str(make(bench.data, store)), bench.data.n_rows
    jobs = {name: Job(name, place, n_rows) for name in (*others, OURS, f"{OURS} to JAX")}
    for name in (OURS, "hand-written"):
        if name in jobs:
            jobs[f"{name}, second epoch"] = Job(name, place, n_rows, epochs=2)
    return bench.measure(row, jobs)


def speeds(
    bench: LoadBench, row: str, found: dict[str, Measured], targets: dict[str, Target]
) -> list[Figure]:
    """Ours against every other contender, targets first; then the others against the bound."""
    figures = [speed(bench, row, found, OURS, other, target) for other, target in targets.items()]
    if OURS in found:
        others = [name for name in found if not name.startswith(OURS) and name not in targets]
        figures += [speed(bench, row, found, OURS, name) for name in others if "epoch" not in name]
    bound = next(iter(targets), "h5py slices")
    for name in (f"{OURS} to JAX", f"{OURS}, second epoch", "hand-written", *PEERS):
        if name in found and name != bound:
            figures.append(speed(bench, row, found, name, bound))
    return figures


def speed(
    bench: LoadBench,
    row: str,
    found: dict[str, Measured],
    a: str,
    b: str,
    target: Target | None = None,
) -> Figure:
    """How many times faster `a` is than `b`."""
    what = f"{a}, speed / {b}"
    for name in (a, b):
        if name not in found:
            return Figure(row, what, None, bench.absent[name], target)
    times = found[a].faster_than(found[b])
    against = " / ".join(rate(bench, found[name]) for name in (a, b))
    return Figure(row, what, times.value, against, target, times.low, times.high)


def rate(bench: LoadBench, found: Measured) -> str:
    """Decoded bytes per second."""
    return f"{bench.data.n_bytes / found.timing.median_s / 1e6:.0f} MB/s"


def costs(
    bench: LoadBench,
    row: str,
    found: dict[str, Measured],
    *,
    cpu: Target | None = None,
    first: Target | None = None,
) -> list[Figure]:
    """CPU time, first batch and memory of ours; those of the peers beside them."""
    names = [name for name in (OURS, f"{OURS} to JAX", *PEERS, "hand-written") if name in found]
    scale = TARGET_BYTES / bench.data.n_bytes
    cpu_s = {name: scale * found[name].median("cpu_s") for name in names}
    first_s = {name: found[name].median("first_s") for name in names}
    added = {name: found[name].median("added_bytes") for name in names}
    return [
        cost(bench, row, "CPU s per 1.34 GB", cpu_s, seconds, cpu),
        cost(bench, row, "first batch, s from opening", first_s, seconds, first),
        cost(
            bench,
            row,
            f"memory over imports / {NEEDED_BYTES / MIB:.0f} MiB for 2 windows and 3 batches",
            {name: n_bytes / NEEDED_BYTES for name, n_bytes in added.items()},
            lambda share: f"{share * NEEDED_BYTES / MIB:.0f} MiB",
            at_most(1.15),
        ),
    ]


def cost(
    bench: LoadBench,
    row: str,
    what: str,
    values: dict[str, float],
    show: Callable[[float], str],
    target: Target | None,
) -> Figure:
    """Ours in numbers, everyone's in words."""
    against = [f"{name} {show(value)}" for name, value in values.items()]
    if OURS not in values:
        against.insert(0, bench.absent[OURS])
    return Figure(row, f"{OURS}, {what}", values.get(OURS), "; ".join(against), target)
