"""Rows `scan_memory` and `scan_zarr`: what `js.scan` costs beside a scan that stacks."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxstore as js
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, at_most
from benchmarks.saving import walk
from benchmarks.saving.sizes import sizes
from benchmarks.table import seconds
from benchmarks.timing import Contender, Timing, ratio


def memory(bench: Bench) -> list[Figure]:
    """Into host memory."""
    length, x = sizes(bench).steps, walk.start()
    xs = jax.block_until_ready(jnp.arange(length))
    source = np.ones((length, walk.N_FLOATS), np.float32)
    bare, stacked = walk.bare(walk.step, length), walk.stacked(walk.step, length)
    timings = bench.time(
        "scan_memory",
        {
            "bare lax.scan": Contender(lambda: jax.block_until_ready(bare(x))),
            "lax.scan, stacked": Contender(lambda: jax.block_until_ready(stacked(x))),
            "js.scan, Memory": Contender(
                lambda: walk.run_scan(walk.step, x, xs, js.MemoryCollector())
            ),
            "memcpy": Contender(source.copy),
        },
    )
    saved, bound = timings["js.scan, Memory"], timings["memcpy"]
    compare = partial(compared, "scan_memory", n_bytes=source.nbytes)
    return [
        compare("js.scan / stacked lax.scan", saved, timings["lax.scan, stacked"], at_most(1.25)),
        compare("js.scan / bare lax.scan", saved, timings["bare lax.scan"]),
        compare("bound: memcpy / bare lax.scan", bound, timings["bare lax.scan"]),
    ]


def disk(bench: Bench) -> list[Figure]:
    """Into Zarr and HDF5 on disk."""
    length, x = sizes(bench).steps, walk.start()
    xs = jax.block_until_ready(jnp.arange(length))
    source = np.ones((length, walk.N_FLOATS), np.float32)
    stacked = walk.stacked(walk.step, length)

    def into(kind: type[js.ZarrCollector | js.HDF5Collector], **options: None) -> Contender:
        def run() -> js.Run:
            return walk.run_scan(walk.step, x, xs, kind(bench.fresh(), **options))

        return Contender(run, bench.wipe)

    timings = bench.time(
        "scan_zarr",
        {
            "lax.scan, stacked": Contender(lambda: jax.block_until_ready(stacked(x))),
            "Zarr": into(js.ZarrCollector),
            "HDF5": into(js.HDF5Collector),
            "Zarr, compression=None": into(js.ZarrCollector, compression=None),
            "HDF5, compression=None": into(js.HDF5Collector, compression=None),
            "plain file": Contender(lambda: bench.fresh().write_bytes(source.data), bench.wipe),
        },
    )
    base = timings.pop("lax.scan, stacked")
    bound = timings.pop("plain file")
    compare = partial(compared, "scan_zarr", n_bytes=source.nbytes)
    figures = [
        compare(
            f"js.scan into {name} / stacked lax.scan",
            timing,
            base,
            at_most(1.4) if name == "Zarr" else None,
        )
        for name, timing in timings.items()
    ]
    return [*figures, compare("bound: plain file / stacked lax.scan", bound, base)]


def compared(
    row: str,
    what: str,
    timing: Timing,
    base: Timing,
    target: Target | None = None,
    *,
    n_bytes: int,
) -> Figure:
    """A contender against another, with the rate at which it moves the draws."""
    against = (
        f"{seconds(timing.median_s)} / {seconds(base.median_s)}; "
        f"{n_bytes / timing.median_s / 1e6:.0f} MB/s"
    )
    found = ratio(timing, base)
    return Figure(row, what, found.value, against, target, found.low, found.high)
