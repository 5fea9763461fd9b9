"""Processing on an accelerator: the same promises as on the CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() == "cpu", reason="needs an accelerator"),
]

SOURCE = np.random.default_rng(0).normal(size=(3000, 512)).astype("float32")


def peak(x):
    spectrum = jnp.abs(jnp.fft.rfft(x))
    return {"at": jnp.argmax(spectrum), "height": spectrum.max()}


@pytest.mark.parametrize("settings", [{"engine": "serial"}, {"workers": 1}, {"workers": 4}])
def test_engines_and_workers_change_no_bit(settings):
    whole = js.process(peak, SOURCE, chunks=256, batch_size=128, engine="serial")
    found = js.process(peak, SOURCE, chunks=256, batch_size=128, **settings)
    for name in ("at", "height"):
        assert found[name][:].tobytes() == whole[name][:].tobytes()


def test_what_was_interrupted_ends_in_the_same_bits(tmp_path):
    whole = js.process(peak, SOURCE, chunks=256, batch_size=128)
    part = js.process(peak, SOURCE, tmp_path / "r.zarr", chunks=256, batch_size=128)
    (tmp_path / "r.zarr" / part.name / "height/c/3").write_bytes(b"torn")
    again = js.process(peak, SOURCE, chunks=256, batch_size=128, resume=part)
    assert again["height"][:].tobytes() == whole["height"][:].tobytes()


def test_the_program_tells_what_it_takes():
    assert js.plan(peak, SOURCE).batch_bytes > SOURCE[0].nbytes
