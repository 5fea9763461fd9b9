"""Row `memory`: peak memory of processes that save few and eight times as many draws."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from bench import Bench
from figures import Figure, at_most

MIB = 2**20
ROUNDS = 3  # at most: the peaks of equal processes hardly differ
ALLOWED_SHARE, ALLOWED_BYTES = 0.1, 32 * MIB  # growth that the target lets pass
N_FLOATS = 10


def memory(bench: Bench) -> list[Figure]:
    """64 chains of 10 floats into Zarr, by both ways."""
    few = bench.sizes.memory_steps
    rounds = ROUNDS if bench.rounds > ROUNDS else 1
    print(f"\nmemory: fresh processes, {rounds} rounds", flush=True)
    return [growth(bench, how, few, rounds) for how in ("scan", "triple")]


def growth(bench: Bench, how: str, few: int, rounds: int) -> Figure:
    """What eight times as many draws add to the peak, in units of what is allowed."""
    lengths = {"start": 8, "short": few, "long": 8 * few}
    peaks: dict[str, list[int]] = {name: [] for name in lengths}
    for _ in range(rounds):
        for name, length in lengths.items():
            peaks[name].append(peak_bytes(bench, how, length))
    base, short, long = (statistics.median(peaks[name]) for name in lengths)
    saved = 8 * few * bench.sizes.n_chains * N_FLOATS * 4
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
    probe = Path(__file__).parent / "memory_probe.py"
    path, chains = bench.fresh(), bench.sizes.n_chains
    arguments = [how, path, str(length), str(chains), str(N_FLOATS)]
    done = subprocess.run(
        [sys.executable, probe, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    bench.wipe()
    return int(done.stdout.split()[-1])
