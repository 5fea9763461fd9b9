"""Row `memory`: peak memory of processes that save few and eight times as many draws.

As a program it is such a process, and prints its peak: `scan|triple PATH STEPS CHAINS FLOATS`.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import jax
import jax.numpy as jnp

import jaxstore as js
from benchmarks import probe
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.measured import FailedError, child
from benchmarks.saving import walk
from benchmarks.saving.sizes import sizes

MIB = 2**20
ROUNDS = 3  # at most: the peaks of equal processes hardly differ
ALLOWED_SHARE, ALLOWED_BYTES = 0.1, 32 * MIB  # growth that the target lets pass
N_FLOATS = 10


def memory(bench: Bench) -> list[Figure]:
    """64 chains of 10 floats into Zarr, by both ways."""
    few = sizes(bench).memory_steps
    return [growth(bench, how, few, min(bench.rounds, ROUNDS)) for how in ("scan", "triple")]


def growth(bench: Bench, how: str, few: int, rounds: int) -> Figure:
    """What eight times as many draws add to the peak, in units of what is allowed."""
    lengths = {"start": 8, "short": few, "long": 8 * few}
    peaks: dict[str, list[int]] = {name: [] for name in lengths}
    for _ in range(rounds):
        for name, length in lengths.items():
            peaks[name].append(peak_bytes(bench, how, length))
    base, short, long = (statistics.median(peaks[name]) for name in lengths)
    saved = 8 * few * sizes(bench).n_chains * N_FLOATS * 4
    against = (
        f"{(short - base) / MIB:.0f} MiB over start for {few} steps, {(long - base) / MIB:.0f} "
        f"MiB for {8 * few}, which save {saved / MIB:.0f} MiB; start {base / MIB:.0f} MiB"
    )
    print(f"  {how}: {against}", flush=True)
    bench.timings.append({"row": "memory", "contender": how, "peak_bytes": peaks})
    allowed = max(ALLOWED_BYTES, ALLOWED_SHARE * short)
    what = f"{how}: growth of peak memory / allowed {allowed / MIB:.0f} MiB"
    return Figure("memory", what, (long - short) / allowed, against, at_most(1))


def peak_bytes(bench: Bench, how: str, length: int) -> int:
    """Peak memory of a process that saves that many steps."""
    arguments = (how, bench.fresh(), length, sizes(bench).n_chains, N_FLOATS)
    done = child("benchmarks.saving.memory", *arguments, environment={})
    bench.wipe()
    if done.returncode:
        raise FailedError(done.stderr)
    return int(done.stdout.split()[-1])


def by_scan(collector: Any, x: jax.Array, length: int) -> None:
    """Chains of `js.scan`."""

    def step(carry: Any, _: None) -> Any:
        x, i = carry
        x, sample = walk.step(x, i)
        return (x, i + 1), {"x": sample}

    js.scan(step, (x, 0), length=length, chains=len(x), collector=collector, progress=False)


def by_triple(collector: Any, x: jax.Array, length: int) -> None:
    """Lanes of a `vmap`."""
    init_save, save, postprocess_save = js.save(collector)

    def chain(x: jax.Array) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            state, x = carry
            x, sample = walk.step(x, i)
            return save(state, True, {"x": sample})[0], x

        return jax.lax.fori_loop(0, length, body, (init_save({"x": x}), x))[0]

    postprocess_save(jax.jit(jax.vmap(chain))(x))


def main() -> None:
    how, path, length, n_chains, n_floats = sys.argv[1:]
    x = jnp.zeros((int(n_chains), int(n_floats)))
    with js.ZarrCollector(path) as collector:
        {"scan": by_scan, "triple": by_triple}[how](collector, x, int(length))
    print(probe.peak_bytes())


if __name__ == "__main__":
    main()
