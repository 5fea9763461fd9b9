"""Memory while saving does not grow with the number of draws."""

import subprocess
import sys

import numpy as np
import pytest
import xarray

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
import jaxstore as js

how, folder = sys.argv[1:]
key = jax.random.key(0)

def step(x, i):
    return 0.5 * x + jax.random.normal(jax.random.fold_in(key, i), x.shape)

def saved(x, i):
    x = step(x, i)
    return x, {"x": x}

def sample(n, collector):
    if how == "scan":
        js.scan(saved, jnp.zeros((64, 10)), jnp.arange(n), chains=64, collector=collector)
    else:
        init_save, save, postprocess_save = js.save(collector)
        def chain(x):
            def body(carry, i):
                state, x = carry
                x = step(x, i)
                return (save(state, True, {"x": x})[0], x), None
            return jax.lax.scan(body, (init_save({"x": x}), x), jnp.arange(n))[0][0]
        postprocess_save(jax.jit(jax.vmap(chain))(jnp.arange(640.).reshape(64, 10)))

for n in (25_000, 25_001, 100_000):  # the first fills queues and caches
    # A queue that is full in the short run too, on a machine that has other things to do.
    where = f"{folder}/{n}.zarr"
    with js.ZarrCollector(where, group="posterior", queue_bytes=2**25) as collector:
        sample(n, collector)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("how", ["scan", "triple"])
def test_64_chains_of_10_floats(how, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""  # no progress bar in a pipe, no warning
    _, few, many = (int(line) * 1024 for line in done.stdout.split())
    # 75,000 more steps are 192 MB of draws. The caches of the allocator may differ.
    assert many - few < 64 * 2**20
    with xarray.open_datatree(tmp_path / "100000.zarr", engine="zarr") as tree:
        x = tree["posterior"]["x"]
        assert x.shape == (64, 100_000, 10)
        assert np.isfinite(x[:, -1].values).all()
