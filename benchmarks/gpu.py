"""Rows `gpu_*`: draws that leave a GPU while it computes, and batches that go there.

All contenders of a row take turns in one fresh process, as a GPU takes seconds to open. As a
program it is that process, and prints their seconds: `stream|feed FOLDER SCRATCH ROUNDS QUICK`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxstore as js
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Target, at_least, at_most
from benchmarks.loading.data import BATCH_ROWS, INNER, WINDOW_CHUNKS, Data, make
from benchmarks.measured import Comparison, FailedError, Measured, child
from benchmarks.saving import walk
from benchmarks.timing import Contender, interleave

LENGTH, QUICK_LENGTH = 5_000, 32
CHAINS, N_DIMENSIONS, MATMULS = 64, 1024, 20  # some 0.2 ms a step: 128 MB of draws a second
BARE, COPY = "bare lax.scan, GPU", "device_put, GPU"
AHEAD = 3  # copies in flight, as the loader has them
SHARED = "CuPy takes a batch without a copy, GPU"
Contenders = dict[str, Contender]


def stream(bench: Bench) -> list[Figure]:
    """A sampler on the GPU with and without its draws saved."""
    targets: dict[str, Target | None] = {
        "js.scan into Memory, GPU": at_most(1.1),
        "js.scan into Zarr, GPU": at_most(1.1),
        "triple into Memory, GPU": None,
    }
    compare, _ = compared(bench, "gpu_stream", (*targets, BARE))
    return [compare.slower(name, BARE, target) for name, target in targets.items()]


def feed(bench: Bench) -> list[Figure]:
    """Shuffled batches on the GPU against copies of as many bytes."""
    targets: dict[str, Target | None] = {
        "jaxstore, GPU": at_least(0.8),
        "jaxstore, chunks kept, GPU": None,
        'jaxstore, shuffle_on="device", GPU': None,
    }
    compare, found = compared(bench, "gpu_feed", (*targets, COPY))
    figures = [compare.faster(name, COPY, target) for name, target in targets.items()]
    if found.get("is_shared") is None:
        why = compare.absent.get(COPY, "cupy is not installed")
        return [*figures, Figure("gpu_feed", SHARED, None, why)]
    return [*figures, Figure("gpu_feed", SHARED, float(found["is_shared"]), "1 is yes")]


def compared(bench: Bench, row: str, names: tuple[str, ...]) -> tuple[Comparison, dict[str, Any]]:
    """What contenders took, and all that their process said."""
    arguments = (row, bench.folder, bench.scratch, bench.rounds, int(bench.is_quick))
    done = child("benchmarks.gpu", *arguments, environment={"JAX_PLATFORMS": ""})
    bench.wipe()
    if done.returncode:
        raise FailedError(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    if "absent" in found:
        for name in names:
            bench.leave_out(name, found["absent"])
        return Comparison(row, {}, bench.absent), found
    runs = {
        name: [{"wall_s": wall, "cpu_s": cpu} for wall, cpu in zip(*taken, strict=True)]
        for name, taken in found["taken"].items()
    }
    for name, (wall_s, cpu_s) in found["taken"].items():
        bench.note(row, name, {"wall_s": wall_s, "cpu_s": cpu_s})
    measured = {name: Measured(tuple(each)) for name, each in runs.items()}
    return Comparison(row, measured, bench.absent), found


def samplers(scratch: Path, *, length: int) -> Contenders:
    """Chains whose steps are matrix products, of which 100 numbers each are kept."""
    weights = jax.random.normal(jax.random.key(0), (N_DIMENSIONS, N_DIMENSIONS)) / 32

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        for _ in range(MATMULS):
            x = jnp.tanh(x @ weights)
        return x, x[:, : walk.N_FLOATS]

    x = jnp.ones((CHAINS, N_DIMENSIONS))
    xs = jnp.arange(length)
    bare, program = walk.bare(step, length), jax.jit(walk.with_triple(step, length))
    numbers = itertools.count()

    def by_triple() -> Any:
        # What is saved is less than the state, so the state of saving is made for it.
        with js.MemoryCollector() as collector:
            init_save, _, postprocess_save = js.save(collector)
            state = init_save(x[:, : walk.N_FLOATS])
            return postprocess_save(program(state, x, jnp.int32(0)))

    def into(collector: Callable[[], Any]) -> Contender:
        return Contender(lambda: walk.run_scan(step, x, xs, collector()))

    return {
        BARE: Contender(lambda: jax.block_until_ready(bare(x))),
        "js.scan into Memory, GPU": into(js.MemoryCollector),
        "js.scan into Zarr, GPU": into(lambda: js.ZarrCollector(scratch / str(next(numbers)))),
        "triple into Memory, GPU": Contender(by_triple),
    }


def loaders(place: Path, n_rows: int) -> Contenders:
    """Epochs of uncompressed Zarr."""
    loader = partial(
        js.Loader,
        place,
        variables=list(INNER),
        batch_size=BATCH_ROWS,
        window_chunks=WINDOW_CHUNKS,
        remainder="drop",
    )
    sources = [
        {v: np.ones((BATCH_ROWS, *inner), "f4") for v, inner in INNER.items()} for _ in range(AHEAD)
    ]

    def copy() -> None:
        flying: list[Any] = []
        for k in range(n_rows // BATCH_ROWS):
            if len(flying) == AHEAD:
                jax.block_until_ready(flying.pop(0))
            flying.append(jax.device_put(sources[k % AHEAD]))
        jax.block_until_ready(flying)

    def epoch(batches: Any) -> None:
        for batch in batches:
            jax.block_until_ready(batch.arrays)

    kept = loader(memory="8GB")
    return {
        COPY: Contender(copy),
        "jaxstore, GPU": Contender(lambda: epoch(loader())),
        "jaxstore, chunks kept, GPU": Contender(lambda: epoch(kept)),
        'jaxstore, shuffle_on="device", GPU': Contender(lambda: epoch(loader(shuffle_on="device"))),
    }


def is_shared(place: Path) -> bool | None:
    """Whether CuPy sees a batch where JAX put it; None without CuPy."""
    if importlib.util.find_spec("cupy") is None:
        return None
    import cupy

    with js.Loader(place, variables=list(INNER), batch_size=BATCH_ROWS) as loader:
        array = next(iter(loader))["x"]
        return bool(cupy.from_dlpack(array).data.ptr == array.unsafe_buffer_pointer())


def answer(row: str, bench: Bench) -> dict[str, Any]:
    """Seconds of all contenders of a row."""
    found: dict[str, Any] = {}
    if row == "gpu_stream":
        length = QUICK_LENGTH if bench.is_quick else LENGTH
        contenders = samplers(bench.scratch, length=length)
    else:
        data = Data.of(bench)
        place = make(data, "raw.zarr")
        contenders, found["is_shared"] = loaders(place, data.n_rows), is_shared(place)
    timings = interleave(contenders, rounds=bench.rounds)
    return {**found, "taken": {name: (t.wall_s, t.cpu_s) for name, t in timings.items()}}


def main() -> None:
    row, folder, scratch, rounds, is_quick = sys.argv[1:]
    if jax.default_backend() != "gpu":
        print(json.dumps({"absent": "no GPU"}))
        return
    bench = Bench(Path(folder), Path(scratch), int(rounds), is_quick == "1")
    print(json.dumps(answer(row, bench)))


if __name__ == "__main__":
    main()
