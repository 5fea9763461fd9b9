"""Following a run that another process is writing."""

import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import same

import jaxstore as js
from jaxstore.saving import recorder

WRITER = """
import sys, time, jax, jax.numpy as jnp, jaxstore as js

def step(x, i):
    jax.debug.callback(lambda i: time.sleep(0.002), i)  # so that it commits on its way
    key = jax.vmap(jax.random.key)(x[:, 0].astype(int))
    return x + 1, {"x": x, "deep": {"n": i * jnp.arange(2), "key": key}}

kind = js.HDF5Collector if sys.argv[1].endswith("h5") else js.ZarrCollector
with kind(sys.argv[1]) as collector:
    xs = jnp.arange(900)
    js.scan(step, jnp.zeros((2, 3)), xs, chains=2, collector=collector, progress=False)
"""


@pytest.mark.parametrize("name", ["run.zarr", "run.h5"])
def test_a_run_of_another_process_is_followed_for_its_whole_length(name, tmp_path):
    path = tmp_path / name
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    watchdog = threading.Timer(120, writer.kill)
    watchdog.start()
    try:
        while True:
            try:
                run = js.open_run(path)
                break
            except (js.MissingError, js.BusyError):
                assert writer.poll() is None
                time.sleep(0.01)  # until it has begun
        heard = list(run.follow(poll_s=0.02))
        assert writer.wait() == 0
    finally:
        watchdog.cancel()
        writer.kill()
    assert len({item.committed_at for item in heard}) > 1
    whole = js.open_run(path)
    assert whole.state == "complete"
    assert whole.sample_count.tolist() == [900, 900]
    leaves = [jax.tree.leaves(item.samples) for item in heard]
    for parts, leaf in zip(zip(*leaves, strict=True), whole.leaves, strict=True):
        assert same(jnp.concatenate(parts, axis=1), leaf[:])


@pytest.mark.parametrize("name", ["run.zarr", "run.h5"])
def test_what_came_before_a_long_step_is_committed_meanwhile(name, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "COMMIT_SHARE", 0.0)  # no commit is cheap enough to come at once
    monkeypatch.setattr(recorder, "TAIL_EVERY_S", 3.0)
    may_go_on, is_long = threading.Event(), threading.Event()

    def hold(i):
        if i == 64:
            is_long.set()
            assert may_go_on.wait(100)

    def step(x, i):
        jax.debug.callback(hold, i)
        return x + 1, x

    def sample():
        kind = js.HDF5Collector if name.endswith("h5") else js.ZarrCollector
        with kind(tmp_path / name, chunk_draws=8) as collector:
            js.scan(step, 0, jnp.arange(100), collector=collector, buffer_draws=4, progress=False)

    writer = threading.Thread(target=sample)
    writer.start()
    try:
        assert is_long.wait(100)
        with js.open_run(tmp_path / name) as run:
            until = time.monotonic() + 60
            while (run := run.refresh()).sample_count.sum() < 60:
                assert time.monotonic() < until
                time.sleep(0.1)
            assert np.asarray(run.samples)[0, :60].tolist() == list(range(60))
    finally:
        may_go_on.set()
        writer.join()
