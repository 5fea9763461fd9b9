"""Row `peers`: what one draw of 100 numbers costs, against those who write draw by draw."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np

import jaxstore as js
from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_least
from benchmarks.saving import walk
from benchmarks.saving.sizes import sizes
from benchmarks.table import seconds
from benchmarks.timing import Contender, added_s


def peers(bench: Bench) -> list[Figure]:
    """Every way of ours against every peer."""
    length, few = sizes(bench).steps, sizes(bench).peer_draws
    timings = bench.time("peers", {**ours(bench, length), **theirs(bench, few)})
    bare = timings.pop("bare lax.scan")
    per_draw = {
        name: added_s(timings.pop(name), bare) / length
        for name in list(timings)
        if name.startswith(("js.scan", "triple"))
    }
    peer_s = {name: timing.median_s / few for name, timing in timings.items()}
    peer_s |= by_pymc(bench)
    figures = [
        Figure(
            "peers",
            f"{peer} / {name}",
            cost / own,
            f"{seconds(cost)} / {seconds(own)} per draw",
            # A chunk of 100 draws is a choice that PyMC leaves to its users: for information.
            None if "=100" in peer else at_least(50),
        )
        for peer, cost in peer_s.items()
        for name, own in per_draw.items()
    ]
    return figures + missing(peer_s)


def missing(measured: dict[str, float]) -> list[Figure]:
    """A line for each peer that is not here."""
    named = {
        "emcee": "not measured: uv run --group bench brings it",
        "PyMC": "not measured: give --pymc-python, README.md says how",
    }
    return [
        Figure("peers", f"{name} per draw", None, why, at_least(50))
        for name, why in named.items()
        if not any(peer.startswith(name) for peer in measured)
    ]


def ours(bench: Bench, length: int) -> dict[str, Contender]:
    """One chain, through the triple and js.scan."""
    x, xs = walk.start(), jax.block_until_ready(jnp.arange(length))
    bare, program = walk.bare(walk.step, length), jax.jit(walk.with_triple(walk.step, length))
    return {
        "bare lax.scan": Contender(lambda: jax.block_until_ready(bare(x))),
        "triple, HDF5": Contender(
            lambda: walk.run_triple(program, x, js.HDF5Collector(bench.fresh())), bench.wipe
        ),
        "triple, Zarr": Contender(
            lambda: walk.run_triple(program, x, js.ZarrCollector(bench.fresh())), bench.wipe
        ),
        "js.scan, Zarr": Contender(
            lambda: walk.run_scan(walk.step, x, xs, js.ZarrCollector(bench.fresh())), bench.wipe
        ),
    }


def theirs(bench: Bench, n: int) -> dict[str, Contender]:
    """The peers that run in this process."""
    found = {"h5py row + flush": Contender(lambda: by_h5py(bench.fresh(), n), bench.wipe)}
    if importlib.util.find_spec("emcee") is not None:
        found["emcee HDFBackend"] = Contender(lambda: by_emcee(bench.fresh(), n), bench.wipe)
    return {name: peer for name, peer in found.items() if name not in bench.without}


def by_h5py(path: Path, n: int) -> None:
    """A row of a resizable dataset at a time, safe after each."""
    row = np.ones(walk.N_FLOATS, np.float32)
    with h5py.File(path, "x") as file:
        shape, chunks = (0, walk.N_FLOATS), (1024, walk.N_FLOATS)
        rows = file.create_dataset("x", shape, "f4", maxshape=(None, walk.N_FLOATS), chunks=chunks)
        for i in range(n):
            rows.resize(i + 1, axis=0)
            rows[i] = row
            file.flush()


def by_emcee(path: Path, n: int) -> None:
    """What emcee does after each step of two walkers in 50 dimensions."""
    from emcee.backends import HDFBackend
    from emcee.state import State

    walkers, dims = 2, walk.N_FLOATS // 2
    random_state = np.random.RandomState(0).get_state()
    coords = np.ones((walkers, dims))
    state = State(coords, log_prob=np.zeros(walkers), random_state=random_state)
    accepted = np.ones(walkers, bool)
    backend = HDFBackend(str(path))
    backend.reset(walkers, dims)
    backend.grow(n, None)
    for _ in range(n):
        backend.save_step(state, accepted)


def by_pymc(bench: Bench) -> dict[str, float]:
    """Seconds per draw of ZarrTrace in an environment of its own; nothing where there is none."""
    if bench.pymc_python is None:
        return {}
    program = Path(__file__).parent / "pymc_probe.py"
    draws, rounds = sizes(bench).peer_draws, bench.rounds
    command = [bench.pymc_python, program, bench.fresh(), str(draws), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    bench.wipe()
    if done.returncode:
        print(f"  PyMC failed:\n{done.stderr[-2000:]}", flush=True)
        return {}
    found = json.loads(done.stdout.splitlines()[-1])
    per_draw = {}
    for chunk, wall_s in found["wall_s"].items():
        name = f"PyMC {found['pymc']} ZarrTrace, draws_per_chunk={chunk}"
        per_draw[name] = statistics.median(wall_s) / draws
        bench.note("peers", name, {"wall_s": wall_s})
    return per_draw
