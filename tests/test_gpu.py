"""Saving from a GPU; without one these tests skip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU"),
]


def test_scan_and_the_triple_give_every_draw(tmp_path):
    def step(x, i):
        x = x + 1
        return x, {"x": x, "i": i}

    with js.ZarrCollector(tmp_path / "scan.zarr") as collector:
        _, run = js.scan(step, jnp.zeros(1000), jnp.arange(5000), collector=collector)
        assert np.array_equal(run.samples["x"][0, :, 7], np.arange(1, 5001))

    init_save, save, postprocess_save = js.save(buffer_draws=64)

    def chain(c):
        def body(state, i):
            return save(state, (i + c) % 3 == 0, {"i": 1000 * c + i})

        return jax.lax.scan(body, init_save({"i": jnp.int32(0)}), jnp.arange(500))[0]

    saved = postprocess_save(jax.jit(jax.vmap(chain))(jnp.arange(6)))
    for c in range(6):
        want = [1000 * c + i for i in range(500) if (i + c) % 3 == 0]
        assert saved["samples"]["i"][c, : len(want)].tolist() == want
