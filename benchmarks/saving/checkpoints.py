"""Row `checkpoints`: what checkpoints and durable commits cost a run into Zarr and HDF5."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import jaxstore as js
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.saving import walk
from benchmarks.saving.sizes import sizes
from benchmarks.table import seconds
from benchmarks.timing import Contender, Timing, ratio

EVERY = 10_000  # steps, of the 900,000 of a run


def checkpoints(bench: Bench) -> list[Figure]:
    """Scan and triple with checkpoints and default commits, against the same without."""
    length, x = 3 * sizes(bench).steps, walk.start()  # short runs drown in the noise of the disk
    xs = jax.block_until_ready(jnp.arange(length))
    every = max(1, EVERY * length // 900_000)
    plain = jax.jit(walk.with_triple(walk.step, length))
    kept = jax.jit(walk.with_triple(walk.step, length, checkpoint_every=every))

    def scan(kind: Any, checkpoint_every: int | None, **how: Any) -> Contender:
        def run() -> js.Run:
            return walk.run_scan(
                walk.step, x, xs, kind(bench.fresh(), **how), checkpoint_every=checkpoint_every
            )

        return Contender(run, bench.wipe)

    def triple(program: Any, checkpoint_every: int, **how: Any) -> Contender:
        def run() -> Any:
            collector = js.ZarrCollector(bench.fresh(), **how)
            return walk.run_triple(program, x, collector, checkpoint_every=checkpoint_every)

        return Contender(run, bench.wipe)

    timings = bench.time(
        "checkpoints",
        {
            "scan into Zarr, none": scan(js.ZarrCollector, 0),
            "scan into Zarr, by time": scan(js.ZarrCollector, None),
            "scan into Zarr": scan(js.ZarrCollector, every),
            "scan into Zarr, durable": scan(js.ZarrCollector, every, durable=True),
            "scan into HDF5, none": scan(js.HDF5Collector, 0),
            "scan into HDF5": scan(js.HDF5Collector, every),
            "scan into HDF5, durable": scan(js.HDF5Collector, every, durable=True),
            "triple into Zarr, none": triple(plain, 0),
            "triple into Zarr": triple(kept, every),
            "triple into Zarr, durable": triple(kept, every, durable=True),
        },
    )
    base: Timing | None = None
    figures = []
    for name, timing in timings.items():
        if name.endswith(", none"):
            base = timing
            continue
        assert base is not None
        found = ratio(timing, base)
        is_durable = name.endswith("durable")
        figures.append(
            Figure(
                "checkpoints",
                f"{name}, checkpoint_every={every} / none"
                if not name.endswith("by time")
                else f"{name} / none",
                found.value,
                f"{seconds(timing.median_s)} / {seconds(base.median_s)}",
                None if is_durable else at_most(1.1),
                found.low,
                found.high,
            )
        )
    return figures
