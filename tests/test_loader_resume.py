"""A loader registered with a collector: its position goes into the checkpoints of the run."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from resuming import Stopped, stopped_after
from stored_rows import numbered
from walking import assert_same_saved

import jaxstore as js


def endless(loader):
    return itertools.chain.from_iterable(itertools.repeat(loader))


@jax.jit
def update(w, batch):
    slow = jax.lax.fori_loop(0, 30, lambda _, a: jnp.tanh(a @ a), jnp.full((200, 200), w[0]))
    rows = jnp.where(batch.mask[:, None], batch["x"] % 7, 0)
    return 0.9 * w + rows.sum(0) / batch.observation_count + 1e-3 * slow[0, 0]


def train(collector, n_steps):
    """A loop in Python that never waits, with steps that take longer than the loop does."""
    loader = js.Loader({"x": numbered(100)}, batch_size=12, window_chunks=2)
    assert isinstance(loader, js.DataLoader)
    collector.register_data_loader(loader)
    first = jnp.zeros(3)
    with js.save(collector, checkpoint_every=5, buffer_draws=4) as (init_save, save, finish):
        point = collector.resume(solver_state=first)
        w, done = (first, 0) if point is None else (point.solver_state, point.step)
        state = init_save({"w": w, "first": 0})
        keep = jax.jit(save)
        for i, batch in zip(range(done, n_steps), endless(loader), strict=False):
            w = update(w, batch)
            sample = {"w": w, "first": jnp.asarray(batch.rows[0])}
            state, _ = keep(state, True, sample, i, w)
        return finish(state)


def test_a_loop_that_is_stopped_goes_on_with_the_batch_that_comes_next(tmp_path):
    wanted = train(js.MemoryCollector(), 60)
    for n_blocks in (3, 8):
        with stopped_after(n_blocks), pytest.raises(Stopped):
            train(js.ZarrCollector(tmp_path / "run.zarr", chunk_draws=4), 60)
    assert_same_saved(train(js.ZarrCollector(tmp_path / "run.zarr", chunk_draws=4), 60), wanted)
    assert np.unique(wanted["samples"]["first"]).size > 20
