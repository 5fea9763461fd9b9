"""All rows of DESIGN.md section 11, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import gpu, importing
from benchmarks.bench import Bench
from benchmarks.budget import Cost
from benchmarks.figures import Figure
from benchmarks.loading import local, waits
from benchmarks.processing import calls, stores
from benchmarks.saving import big, checkpoints, memory, peers, scan, triple


class Row(NamedTuple):
    """Something to measure, and what that takes."""

    wing: str
    measure: Callable[[Bench], list[Figure]]
    cost: Cost


ROWS = {
    "import": Row("package", importing.importing, Cost(1, 5)),
    "scan_memory": Row("saving", scan.memory, Cost(6, 1.5)),
    "scan_zarr": Row("saving", scan.disk, Cost(7, 2)),
    "triple": Row("saving", triple.one_chain, Cost(6, 1.5)),
    "chains": Row("saving", triple.chains, Cost(12, 4)),
    "big_draws": Row("saving", big.big_draws, Cost(12, 6)),
    "checkpoints": Row("saving", checkpoints.checkpoints, Cost(15, 9)),
    "peers": Row("saving", peers.peers, Cost(8, 4)),
    "memory": Row("saving", memory.memory, Cost(45, 0)),
    "gpu_stream": Row("saving", gpu.stream, Cost(2, 0)),
    "zarr_raw": Row("loading", local.zarr_raw, Cost(3, 25)),
    "zarr_zstd": Row("loading", local.zarr_zstd, Cost(3, 25)),
    "hdf5_raw": Row("loading", local.hdf5_raw, Cost(3, 12)),
    "hdf5_gzip": Row("loading", local.hdf5_gzip, Cost(3, 10)),
    "latency": Row("loading", waits.latency, Cost(2, 14)),
    "step": Row("loading", waits.step, Cost(2, 12)),
    "gpu_feed": Row("loading", gpu.feed, Cost(2, 0)),
    "peak_zarr": Row("processing", stores.peak_zarr, Cost(2, 32)),
    "peak_hdf5": Row("processing", stores.peak_hdf5, Cost(2, 14)),
    "line_zarr": Row("processing", stores.line_zarr, Cost(2, 32)),
    "line_hdf5": Row("processing", stores.line_hdf5, Cost(2, 24)),
    "pyusid": Row("processing", calls.pyusid, Cost(2, 20)),
    "fixed": Row("processing", calls.fixed, Cost(1, 6)),
    "again": Row("processing", calls.again, Cost(30, 4)),
    "ensemble": Row("processing", calls.ensemble, Cost(1, 6)),
    "remote": Row("processing", calls.remote, Cost(2, 12)),
}
WINGS = ("saving", "loading", "processing")
