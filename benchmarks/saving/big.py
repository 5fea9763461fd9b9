"""Row `big_draws`: draws of 4 MB at every step, against memcpy and plain files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxstore as js
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.saving import walk
from benchmarks.saving.sizes import sizes
from benchmarks.table import seconds
from benchmarks.timing import Contender, Timing, added_s, ratio

SHAPE = (1024, 1024)
DRAW_BYTES = 4 * SHAPE[0] * SHAPE[1]


def step(x: Array, i: Array) -> tuple[Array, Array]:
    """Hardly any work, and a draw of 4 MB."""
    x = x + 1
    return x, x


def big_draws(bench: Bench) -> list[Figure]:
    """Through js.scan and through the triple, into everything."""
    n = sizes(bench).big_draws
    timings = bench.time("big_draws", {**bounds(bench, n), **contenders(bench, n)})
    figures = []
    for name in kinds(bench):
        bound = "memcpy" if name == "Memory" else "plain files"
        for how in ("js.scan", "triple"):
            is_target = "no checksum" not in name
            saved = timings[f"{how}, {name}"]
            figures += speeds(how, name, saved, timings, bound=bound, n=n, is_target=is_target)
    return figures


def speeds(
    how: str,
    name: str,
    saved: Timing,
    timings: dict[str, Timing],
    *,
    bound: str,
    n: int,
    is_target: bool,
) -> list[Figure]:
    """The share of the bound's speed: of the whole run, and without the time of the steps."""
    found = ratio(timings[bound], saved)
    target = at_least(0.6 if bound == "memcpy" else 0.7) if is_target else None
    rates = f"{rate(n, saved.median_s)} / {rate(n, timings[bound].median_s)}"
    added = added_s(saved, timings["bare lax.scan"])
    share = timings[bound].median_s / added
    spent = f"{seconds(added / n)} / {seconds(timings[bound].median_s / n)} a draw"
    what = f"{how} into {name}, speed / {bound}"
    without = f"{what}, without the steps"
    return [
        Figure("big_draws", what, found.value, rates, target, found.low, found.high),
        Figure("big_draws", without, share, spent),
    ]


def rate(n: int, took_s: float) -> str:
    """Bytes of draws per second."""
    return f"{n * DRAW_BYTES / took_s / 1e6:.0f} MB/s"


def bounds(bench: Bench, n: int) -> dict[str, Contender]:
    """What the machine can do, and the steps alone."""
    source = np.ones((4, *SHAPE), np.float32)
    bare, x = walk.bare(step, n), jnp.zeros(SHAPE)

    def copy() -> np.ndarray[Any, Any]:
        copied = np.empty((n, *SHAPE), np.float32)
        for i in range(n):
            copied[i] = source[i % 4]
        return copied

    def write() -> None:
        folder = bench.fresh()
        folder.mkdir()
        for i in range(n):
            (folder / str(i)).write_bytes(source[i % 4].data)

    return {
        "bare lax.scan": Contender(lambda: jax.block_until_ready(bare(x))),
        "memcpy": Contender(copy),
        "plain files": Contender(write, bench.wipe),
    }


def kinds(bench: Bench) -> dict[str, Callable[[], Any]]:
    """Every kind of collector, new at each call."""
    stores = {"Zarr": js.ZarrCollector, "HDF5": js.HDF5Collector}
    made: dict[str, Callable[[], Any]] = {"Memory": js.MemoryCollector}
    for name, kind in stores.items():
        for suffix, checksum in (("", True), (", no checksum", False)):
            made[name + suffix] = partial(new, bench, kind, checksum=checksum)
    return made


def new(bench: Bench, kind: type[Any], *, checksum: bool) -> Any:
    """An uncompressed store at a new place."""
    return kind(bench.fresh(), compression=None, checksum=checksum)


def contenders(bench: Bench, n: int) -> dict[str, Contender]:
    """Both ways to save into each kind of collector."""
    x, xs = jnp.zeros(SHAPE), jax.block_until_ready(jnp.arange(n))
    program = jax.jit(walk.with_triple(step, n))

    def by_scan(make: Callable[[], Any]) -> js.Run:
        return walk.run_scan(step, x, xs, make())

    def by_triple(make: Callable[[], Any]) -> Any:
        return walk.run_triple(program, x, make())

    ways = {"js.scan": by_scan, "triple": by_triple}
    return {
        f"{how}, {name}": Contender(partial(save, make), bench.wipe)
        for name, make in kinds(bench).items()
        for how, save in ways.items()
    }
