"""The same bits on every engine and any number of workers, within the memory that was given."""

from __future__ import annotations

import subprocess
import sys
import threading

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from processed import bits, peak, run, waves
from stored_rows import CountingSource

import jaxstore as js

X = waves(41, 12)
TABLE = np.linspace(0, 1, 41).astype("f4")  # as long as the number of items


def kernel(x, *, table):
    return {"wave": jnp.exp(jnp.sin(x)) * table.sum(), "at": (jnp.argmax(x), x.mean())}


CASES = {
    "pytree": (kernel, {"params": {"table": TABLE}}),
    "selection": (peak, {"select": [3, 1, 0]}),
    "many selected": (peak, {"select": np.random.default_rng(0).permutation(41)}),
    "channels": (lambda x: jnp.cumsum(jnp.sin(x)[None], 0)[0], {"chan_per_worker": 5}),
    "batches": (lambda xs: jnp.exp(xs).sum(1), {"batched": True, "batch_size": 4}),
    "user": (
        lambda x: jnp.sin(x),
        {
            "reduce": js.Reduce(
                lambda out: jnp.zeros(out.shape),
                lambda state, value: state * 0.5 + value,
                lambda a, b: a - b,  # does not commute
                lambda state: {"end": state},
            )
        },
    ),
    **{name: (peak, {"reduce": name}) for name in ("mean", "sum", "min", "max", "variance")},
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow) if case in ("sum", "min", "max") else case
        for case in CASES
    ],
)
def test_every_engine_and_number_of_workers_gives_the_same_bits(case):
    function, settings = CASES[case]
    source = CountingSource("raw", X, 5)
    settings = {"chunks": 3, "name": "p", "source_token": "t", "batch_size": 2, **settings}
    wanted = bits(run(function, source, **settings))
    for workers in (1, 3):
        found = run(function, source, engine="threads", workers=workers, **settings)
        assert bits(found) == wanted, workers
    # Begun by one engine and ended by another.
    res = run(function, source, **settings)
    owner = res.place.open(res.name, role="owner")
    marks = np.arange(len(res.status)) % 3 == 1
    owner.set_marks(marks.astype(np.uint8))
    owner.close()
    again = run(function, source, resume=res, engine="threads", workers=2, **settings)
    assert [s["engine"] for s in again.provenance["sessions"]] == ["serial", "threads"]
    assert again.provenance["sessions"][1]["units"] == (~marks).sum()
    assert bits(again) == wanted


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_more_units_are_in_memory_than_planned(workers):
    source = CountingSource("raw", X, 1, pause_s=0.001)
    settings = {"chunks": 1, "batch_size": 1, "name": "p", "source_token": "t"}
    plan = js.plan(peak, source, "memory", engine="threads", workers=workers, **settings)
    run(peak, source, engine="threads", workers=workers, **settings)
    assert source.most_inflight <= plan.inflight
    one = js.plan(peak, source, "memory", engine="serial", **settings)
    assert one.inflight == 1
    assert one.n_units == plan.n_units == 41


def test_serial_work_is_in_the_calling_thread():
    threads = []
    source = CountingSource("raw", X, 1)
    read = source.read

    def noted(index, rows):
        threads.append(threading.current_thread())
        return read(index, rows)

    source.read = noted
    run(lambda x: x, source, chunks=1, name="p", source_token="t")
    assert set(threads) == {threading.main_thread()}


MEMORY = """
import resource, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
import jaxstore as js

def kernel(x):
    return {"wave": jnp.fft.ifft(jnp.fft.fft(x) * 2).real, "top": jnp.max(x)}

def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * resource.getpagesize()

source, target, memory, engine, select = sys.argv[1:6]
select = None if select == "all" else [5, 1, 700, 3]
# What JAX itself, and the libraries of the formats take, is no part of the limit.
js.process(kernel, np.zeros((64, 4096), "f4"), target + ".warm.zarr", progress=False)
js.find(target)
settings = dict(memory=int(memory), engine=engine, select=select, progress=False)
plan = js.plan(kernel, source, target, **settings)
before, peak, running = resident(), [0], [True]

def watch():
    while running:
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)

thread = threading.Thread(target=watch, daemon=True)
thread.start()
js.process(kernel, source, target, **settings)
running.clear()
thread.join()
print(peak[0] - before, plan.projected_bytes)
"""
MIB = 1 << 20
SLACK = 64 * MIB  # as `process` says


@pytest.mark.parametrize(
    ("kind", "target", "engine", "chunk"),
    [
        ("zarr", "o.zarr", "threads", 50),
        pytest.param("hdf5", "o.h5", "threads", 50, marks=pytest.mark.slow),
        pytest.param("hdf5", "o.h5", "serial", 1, marks=pytest.mark.slow),
    ],
)
def test_memory_stays_under_the_limit_on_a_source_ten_times_as_large(
    tmp_path, kind, target, engine, chunk
):
    limit, n_items = 24 * MIB, 15360  # of 16 KiB each: 240 MiB
    values = np.random.default_rng(0).random((n_items // 10, 4096), "f4")
    if kind == "zarr":
        array = zarr.open_group(tmp_path / "s.zarr", mode="w").create_array(
            "raw", shape=(n_items, 4096), chunks=(chunk, 4096), dtype="f4", compressors=None
        )
        for start in range(0, n_items, n_items // 10):
            array[start : start + n_items // 10] = values
        source = f"{tmp_path}/s.zarr:/raw"
    else:
        with h5py.File(tmp_path / "s.h5", "w") as file:
            array = file.create_dataset(
                "raw", (n_items, 4096), "f4", chunks=(chunk, 4096) if chunk > 1 else None
            )
            for start in range(0, n_items, n_items // 10):
                array[start : start + n_items // 10] = values
        source = f"{tmp_path}/s.h5:/raw"
    growth, projected = measured(tmp_path, source, target, limit, engine, "all")
    assert projected <= limit
    assert growth < limit + SLACK, f"{growth / MIB:.0f} MiB"


def measured(tmp_path, source, target, limit, engine, select):
    program = tmp_path / "program.py"
    program.write_text(MEMORY)
    child = subprocess.run(
        [sys.executable, program, source, str(tmp_path / target), str(limit), engine, select],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return map(int, child.stdout.split())


def test_a_few_items_of_large_chunks_count_with_their_chunks(tmp_path):
    array = zarr.open_group(tmp_path / "s.zarr", mode="w").create_array(
        "raw", shape=(2048, 4096), chunks=(1024, 4096), dtype="f4", fill_value=1
    )
    array[...] = np.float32(2)
    settings = {"select": [5, 1, 700, 3]}
    with pytest.raises(js.TooLargeError, match=r"16.* for a stored chunk"):
        run(lambda x: x, f"{tmp_path}/s.zarr:/raw", memory="8 MiB", **settings)
    plan = js.plan(lambda x: x, f"{tmp_path}/s.zarr:/raw", "memory", memory="64 MiB", **settings)
    assert plan.projected_bytes > 16 * MIB
