"""Stochastic-gradient MCMC on a feed: the right posterior, and the same bits after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js
from jaxstore.loading.feed import feed
from jaxstore.loading.feed_stream import Stream
from jaxstore.loading.loader import Loader
from jaxstore.saving import recorder
from jaxstore.saving.recording import Recording

N_ROWS, CHAINS, STEPS = 50, 3, 200
DATA = np.random.default_rng(7).normal(1.5, 1.0, N_ROWS).astype(np.float32)


def potential(position, batch):
    """Of a mean, with a flat prior; the mask leaves out rows that only fill up the last batch."""
    terms = 0.5 * (batch["x"] - position) ** 2
    return batch.observation_count * jnp.sum(terms * batch.mask) / jnp.sum(batch.mask)


def sgld(next_batch, *, step_size):
    """A step of stochastic-gradient Langevin dynamics (Welling and Teh, 2011)."""

    def step(carry, _):
        state, key, position = carry
        state, batch = next_batch(state)
        key, own = jax.random.split(key)
        slope = jax.grad(potential)(position, batch)
        noise = jnp.sqrt(2 * step_size) * jax.random.normal(own)
        position = position - step_size * slope + noise
        return (state, key, position), {"mean": position}

    return step


def load(**how):
    return Loader({"x": DATA}, **{"batch_size": 16, "seed": 3, **how})


def jittered(arrays, keys):
    return {"x": arrays["x"] + 0.1 * jax.vmap(jax.random.normal)(keys)}


def sampled(collector, *, seed=3):
    """The run of some chains on augmented batches, begun or gone on with."""
    with feed(load(device_transform=jittered, seed=seed), 3) as (init_batch, next_batch, _):
        first = (
            jax.vmap(init_batch)(jnp.arange(CHAINS)),
            jax.random.split(jax.random.key(1), CHAINS),
            jnp.zeros(CHAINS),
        )
        step = jax.vmap(sgld(next_batch, step_size=1e-3), (0, None))
        last, run = js.scan(
            step,
            first,
            length=STEPS,
            collector=collector,
            chains=CHAINS,
            checkpoint_every=20,
            resume=True,
            buffer_draws=16,
            progress=False,
        )
        return np.asarray(last[2]), np.asarray(run.samples["mean"][:])


def test_each_epoch_sees_the_whole_data_once():
    """Weighed by their rows, the slopes of an epoch's batches add up to that of all the data."""
    with feed(load(), 3) as (init_batch, next_batch, _):

        def step(state, _):
            state, batch = next_batch(state)
            return state, (jax.grad(potential)(0.5, batch), batch.mask.sum())

        _, (slopes, counts) = jax.jit(lambda s: jax.lax.scan(step, s, length=8))(init_batch())
    assert counts.reshape(2, 4).sum(1).tolist() == [N_ROWS, N_ROWS]
    whole = (slopes * counts).reshape(2, 4).sum(1) / N_ROWS
    np.testing.assert_allclose(whole, (0.5 - DATA).sum(), rtol=1e-5)


def test_sgld_finds_the_posterior():
    """Each chain with batches of its own, all of them in one compiled program."""
    with feed(load()) as (init_batch, next_batch, _):

        @jax.jit
        @jax.vmap
        def chain(key):
            step = sgld(next_batch, step_size=4e-4)
            return jax.lax.scan(step, (init_batch(key), key, 0.0), length=3000)[1]["mean"][500:]

        draws = np.asarray(chain(jax.random.split(jax.random.key(0), 4)))
    assert draws.mean() == pytest.approx(DATA.mean(), abs=0.03)
    # Slopes of batches are noisy, which widens what is sampled a little.
    assert draws.std() == pytest.approx(1 / np.sqrt(N_ROWS), rel=0.25)
    assert len({round(float(mean), 6) for mean in draws.mean(1)}) == 4


def test_a_killed_run_goes_on_in_another_process_bit_for_bit(tmp_path, monkeypatch):
    place = tmp_path / "run.zarr"
    program = [sys.executable, __file__, str(place)]
    path = os.pathsep.join([str(Path(js.__file__).parent.parent), *sys.path])
    killed = subprocess.run(program, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL

    asked, batches = [], Stream.batches

    def told(stream, numbers, **how):
        asked.extend(numbers)
        return batches(stream, numbers, **how)

    monkeypatch.setattr(Stream, "batches", told)
    found = sampled(js.ZarrCollector(place))
    assert CHAINS * 20 <= min(asked) < CHAINS * STEPS  # those before are with the checkpoint
    last, means = sampled(js.MemoryCollector())
    np.testing.assert_array_equal(found[0], last)
    np.testing.assert_array_equal(found[1], means)
    assert means.shape == (CHAINS, STEPS)


def test_a_run_with_other_batches_is_no_continuation(tmp_path):
    collector = js.MemoryCollector()
    sampled(collector)
    with pytest.raises(js.MismatchError, match="carry differs .*loader"):
        sampled(collector, seed=4)


def main(place):
    """Sample until there is a checkpoint, and die."""
    put = Recording.put_checkpoint

    def put_and_die(recording, point):
        put(recording, point)
        if point.step > 0:
            recording.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    recorder.CHECKPOINT_SHARE = 1e9  # none is put off because it takes long
    Recording.put_checkpoint = put_and_die
    sampled(js.ZarrCollector(place))


if __name__ == "__main__":
    main(sys.argv[1])
