"""Rows `zarr_*` and `hdf5_*`: shuffled epochs of local stores in the page cache."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, at_least, at_most
from benchmarks.loading.data import (
    BATCH_ROWS,
    CHUNK_ROWS,
    N_ROWS,
    ROW_BYTES,
    WINDOW_CHUNKS,
    Data,
    make,
)
from benchmarks.loading.job import Job
from benchmarks.measured import Comparison
from benchmarks.table import seconds

OURS, TO_JAX, HAND = "jaxstore", "jaxstore to JAX", "hand-written"
MIB = 2**20
PEERS = ("insitubatch", "annbatch", "grain", "xbatcher (unshuffled)")
# What a loader must hold: a window that is drained, one that fills, a batch in each of three hands.
NEEDED_BYTES = (2 * WINDOW_CHUNKS * CHUNK_ROWS + 3 * BATCH_ROWS) * ROW_BYTES


def zarr_raw(bench: Bench) -> list[Figure]:
    """Chunks as they are; a second epoch has memory that was touched before."""
    others = ("cat", "memcpy", "read + decode", "zarr chunks", HAND, *PEERS)
    found = measure(bench, "zarr_raw", "raw.zarr", (*others, TO_JAX), again=(OURS, HAND))
    return [
        *speeds(found, {"cat": at_least(0.5), "insitubatch": at_least(3)}),
        *costs(found, cpu=at_most(0.5), first=at_most(0.1)),
    ]


def zarr_zstd(bench: Bench) -> list[Figure]:
    """Zarr's default compression."""
    others = ("read + decode", "zarr chunks", HAND, "insitubatch", "annbatch", TO_JAX)
    found = measure(bench, "zarr_zstd", "zstd.zarr", others)
    return [*speeds(found, {"read + decode": at_least(0.85)}), *costs(found)]


def hdf5_raw(bench: Bench) -> list[Figure]:
    """Chunks of HDF5 without filters."""
    others = ("read + decode", "h5py slices", "h5py slices, shuffled", HAND, TO_JAX)
    found = measure(bench, "hdf5_raw", "raw.h5", others, again=(OURS, HAND))
    targets = {"h5py slices": at_least(2), "h5py slices, shuffled": at_least(2)}
    return [*speeds(found, targets), *costs(found)]


def hdf5_gzip(bench: Bench) -> list[Figure]:
    """Shuffle and gzip."""
    found = measure(bench, "hdf5_gzip", "gzip.h5", ("h5py slices",))
    return [*speeds(found, {}), *costs(found)]


def measure(
    bench: Bench, row: str, store: str, others: tuple[str, ...], *, again: tuple[str, ...] = ()
) -> Comparison:
    """Ours and others on one store; those of `again` for two epochs too, of which one counts."""
    data = Data.of(bench)
    place = str(make(data, store))
    jobs = {name: Job(name, place, data.n_rows) for name in (*others, OURS)}
    jobs |= {f"{name}, second epoch": Job(name, place, data.n_rows, epochs=2) for name in again}
    return Comparison(
        row,
        bench.measure(row, jobs),
        bench.absent,
        lambda found: f"{data.n_bytes / found.timing.median_s / 1e6:.0f} MB/s",
    )


def speeds(compare: Comparison, targets: dict[str, Target]) -> list[Figure]:
    """Ours against every other contender, targets first; then the others against the bound."""
    figures = [compare.faster(OURS, other, target) for other, target in targets.items()]
    others = [n for n in compare.found if not n.startswith(OURS) and "epoch" not in n]
    figures += [compare.faster(OURS, name) for name in others if name not in targets]
    bound = next(iter(targets), "h5py slices")
    named = [n for n in (TO_JAX, f"{OURS}, second epoch", HAND, *PEERS) if n in compare.found]
    return figures + [compare.faster(name, bound) for name in named if name != bound]


def costs(
    compare: Comparison, *, cpu: Target | None = None, first: Target | None = None
) -> list[Figure]:
    """CPU time, first batch and memory of ours; those of the peers beside them."""
    found = {n: compare.found[n] for n in (OURS, TO_JAX, *PEERS, HAND) if n in compare.found}

    def cost(
        what: str, name: str, unit: float, show: Callable[[float], str], target: Target | None
    ) -> Figure:
        values = {contender: each.median(name) / unit for contender, each in found.items()}
        against = [f"{contender} {show(value)}" for contender, value in values.items()]
        if OURS not in values:
            against.insert(0, compare.absent[OURS])
        text = "; ".join(against)
        return Figure(compare.row, f"{OURS}, {what}", values.get(OURS), text, target)

    n_bytes = next(iter(found.values())).median("n_bytes") if found else ROW_BYTES
    needed = f"{NEEDED_BYTES / MIB:.0f} MiB for 2 windows and 3 batches"
    return [
        cost("CPU s per 1.34 GB", "cpu_s", n_bytes / (N_ROWS * ROW_BYTES), seconds, cpu),
        cost("first batch, s from opening", "first_s", 1, seconds, first),
        cost(
            f"memory over imports / {needed}",
            "added_bytes",
            NEEDED_BYTES,
            lambda share: f"{share * NEEDED_BYTES / MIB:.0f} MiB",
            at_most(1.15),
        ),
    ]
