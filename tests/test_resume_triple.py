"""The triple goes on from its checkpoint, whatever surrounds it."""

from __future__ import annotations

import threading
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walking
from collecting import assert_same
from jax.experimental import io_callback
from pairs import in_turn
from resuming import Stopped, places, stopped_after
from walking import (
    EVERY,
    N_STEPS,
    PROGRAMS,
    assert_same_saved,
    attempt,
    begin,
    chain,
    one,
    pmapped,
    sharded,
    uninterrupted,
    vmapped,
    walks,
)

import jaxstore as js
from jaxstore.saving.recording import Recording


@pytest.mark.parametrize(("kind", "name"), in_turn(["memory", "zarr", "hdf5"], PROGRAMS, every=3))
def test_a_stopped_program_ends_as_one_that_was_not(tmp_path, kind, name):
    program, make = PROGRAMS[name], places(tmp_path)[kind]
    wanted, wanted_last = uninterrupted(program)
    for n_blocks in (2, 10, 5) if program is one else (2, 60, 40):
        with stopped_after(n_blocks), pytest.raises(Stopped):
            attempt(program, make())
    found, last = attempt(program, make())
    assert_same_saved(found, wanted)
    assert_same(last, wanted_last)


@pytest.mark.parametrize("program", [sharded, pmapped])
def test_a_checkpoint_waits_for_devices_that_sent_nothing_yet(program, monkeypatch):
    """Else a run that is killed then would go on without their chains."""
    taken, points, gate = [], [], threading.Event()
    chain, take_part, put_checkpoint = walking.chain, Recording.take_part, Recording.put_checkpoint

    def take(recording, part):
        taken.append(part.step)
        take_part(recording, part)
        if taken.count(part.step) == 3:
            gate.set()

    def put(recording, point):
        points.append(len(point.senders))
        put_checkpoint(recording, point)

    def hold(step, number):
        assert number != 3 or gate.wait(60)  # the last device
        return np.asarray(step)

    def held_back(triple, walk, first, **how):
        step = jax.ShapeDtypeStruct((), jnp.int32)
        first = io_callback(hold, step, jnp.int32(first), how["chain"])
        return chain(triple, walk, first, **how)

    monkeypatch.setattr(Recording, "take_part", take)
    monkeypatch.setattr(Recording, "put_checkpoint", put)
    monkeypatch.setattr(walking, "chain", held_back)
    with js.save(js.MemoryCollector(), checkpoint_every=EVERY, buffer_draws=8) as triple:
        triple.postprocess(program(triple, walks(), 0)[0])
    assert set(points) == {4}
    assert len(points) == N_STEPS // EVERY


def test_a_finished_run_becomes_longer(tmp_path):
    wanted, _ = uninterrupted(vmapped)
    make = places(tmp_path)["hdf5"]

    def part(n_steps):
        collector = make()
        with js.save(collector, checkpoint_every=EVERY, buffer_draws=8) as triple:
            point = collector.resume(solver_state=begin(0))
            run = partial(chain, triple, n_steps=n_steps)
            program = jax.jit(jax.vmap(run, in_axes=(0, None)))
            start = (walks(), 0) if point is None else (point.solver_state, point.step)
            return triple.postprocess(program(*start)[0])

    for n_steps in (100, 200):
        part(n_steps)
    assert_same_saved(part(N_STEPS), wanted)


def test_chains_that_ended_stay_when_later_ones_are_stopped(tmp_path):
    """Two groups of chains, one after the other; the second is stopped at any time."""
    make = places(tmp_path)["zarr"]

    def group(triple, seed, point=None):
        walk, first = (begin(seed), 0) if point is None else (point.solver_state, point.step)
        return triple.postprocess(jax.jit(partial(chain, triple))(walk, first)[0])

    reference = js.save(js.MemoryCollector(), buffer_draws=8)
    wanted = [group(reference, seed) for seed in (1, 2)]
    for n_blocks in (1, 20):  # before and after a checkpoint of the second
        collector = make()
        triple = js.save(collector, checkpoint_every=EVERY, buffer_draws=8)
        point = collector.resume(solver_state=begin(0))
        if n_blocks == 1:
            group(triple, 1)
        with stopped_after(n_blocks), pytest.raises(Stopped), triple:
            group(triple, 2, point)
    collector = make()
    triple = js.save(collector, checkpoint_every=EVERY, buffer_draws=8)
    point = collector.resume(solver_state=begin(0))
    assert point is not None
    assert_same_saved(group(triple, 2, point), wanted[1])
    run = js.open_run(tmp_path / "run.zarr")
    assert run.sample_count.tolist() == [int(w["sample_count"]) for w in wanted]
    for c in range(2):
        n = int(wanted[c]["sample_count"])
        assert_same(run.samples["position"][c, :n], wanted[c]["samples"]["position"])


def test_stochastic_gradients_go_on_with_the_same_minibatches(tmp_path):
    """SGLD of a regression: rows come from a loader on the host, whose position is checkpointed."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(64, 3)).astype(np.float32)
    labels = features @ np.float32([1, -2, 0.5]) + rng.normal(size=64).astype(np.float32)

    class Loader:
        """Epochs in random order, 8 rows at a time."""

        def __init__(self):
            self.epoch, self.row = 0, 0

        def state(self):
            return {"epoch": self.epoch, "row": self.row}

        def restore(self, state):
            self.epoch, self.row = state["epoch"], state["row"]

        def next(self):
            order = np.random.default_rng((1, self.epoch)).permutation(64)
            rows = order[self.row : self.row + 8].astype(np.int32)
            self.row += 8
            if self.row == 64:
                self.epoch, self.row = self.epoch + 1, 0
            return rows

    class Chain(NamedTuple):
        key: jax.Array
        weights: jax.Array

    def run(collector, n_steps):
        loader = Loader()
        collector.register_data_loader(loader)
        shape = jax.ShapeDtypeStruct((8,), jnp.int32)

        def step(carry, i):
            state, sgld = carry
            rows = jax.experimental.io_callback(loader.next, shape)
            error = jnp.asarray(features)[rows] @ sgld.weights - jnp.asarray(labels)[rows]
            gradient = 8 * jnp.asarray(features)[rows].T @ error + sgld.weights
            key, draw = jax.random.split(sgld.key)
            noise = jax.random.normal(draw, (3,))
            sgld = Chain(key, sgld.weights - 1e-4 * gradient + jnp.sqrt(2e-4) * noise)
            sample = {"weights": sgld.weights, "rows": rows}
            state, _ = save(state, i % 2 == 1, sample, i, sgld)
            return (state, sgld), None

        with js.save(collector, checkpoint_every=13, buffer_draws=8) as (init_save, save, finish):
            first = Chain(jax.random.key(2), jnp.zeros(3))
            point = collector.resume(solver_state=first)
            sgld, done = (first, 0) if point is None else (point.solver_state, point.step)
            sample = {"weights": jnp.zeros(3), "rows": jnp.zeros(8, jnp.int32)}
            program = jax.jit(lambda c, steps: jax.lax.scan(step, c, steps)[0])
            state, _ = program((init_save(sample), sgld), jnp.arange(done, n_steps))
            return finish(state)

    make = places(tmp_path)["zarr"]
    wanted = run(js.MemoryCollector(), 200)
    for n_blocks in (4, 9):
        with stopped_after(n_blocks), pytest.raises(Stopped):
            run(make(), 200)
    assert_same_saved(run(make(), 200), wanted)
    assert np.unique(wanted["samples"]["rows"][:4]).size > 20  # they are minibatches indeed
