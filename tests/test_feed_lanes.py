"""`feed` in vmap and over devices: each chain has batches of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feeding import load, looped, scanned
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxstore.loading.feed import feed
from jaxstore.loading.feed_host import Host
from jaxstore.loading.feed_stream import Stream


class TestLanes:
    @pytest.mark.parametrize("remainder", ["pad", "carry"])
    def test_lanes_share_the_stream_in_one_call(self, monkeypatch, remainder):
        calls, take = [], Host.take
        monkeypatch.setattr(Host, "take", lambda host, *a: (calls.append(1), take(host, *a))[1])
        with feed(load(remainder=remainder), 3) as (init_batch, next_batch, _):
            run = scanned(next_batch, 9)
            keys = jax.random.split(jax.random.key(0), 4)
            rows, masks = jax.jit(jax.vmap(lambda key: run(init_batch(key))[1]))(keys)
        wanted = looped(36, remainder=remainder)
        for found, whole in zip((rows, masks), wanted, strict=True):
            for lane in range(4):
                np.testing.assert_array_equal(found[lane], whole[lane::4])
        assert len(calls) == 3

    def test_lanes_of_nested_vmaps_are_numbered_through(self):
        with feed(load(), 2) as (init_batch, next_batch, _):
            run = scanned(next_batch, 4)
            marks = jnp.zeros((2, 3))
            nested = jax.vmap(jax.vmap(lambda mark: run(init_batch({"mark": mark}))[1]))
            rows, _ = jax.jit(nested)(marks)
        assert rows.shape == (2, 3, 4, 16)
        np.testing.assert_array_equal(np.moveaxis(rows, 2, 0).reshape(24, 16), looped(24)[0])

    def test_a_state_may_be_made_outside_for_all_lanes(self):
        with feed(load(), 2) as (init_batch, next_batch, _):
            states = jax.vmap(init_batch)(jnp.arange(3))
            _, (rows, _) = jax.jit(jax.vmap(scanned(next_batch, 3)))(states)
        np.testing.assert_array_equal(np.swapaxes(rows, 0, 1).reshape(9, 16), looped(9)[0])

    def test_lanes_that_nothing_tells_apart_get_the_same(self):
        with feed(load(), 2) as (init_batch, next_batch, _):
            run = scanned(next_batch, 3)
            inside = jax.vmap(lambda x: (x, run(init_batch())[1][0]), out_axes=(0, 0))
            outside = jax.vmap(lambda x, state: (x, run(state)[1][0]), in_axes=(0, None))
            found = [inside(jnp.arange(3))[1], outside(jnp.arange(3), init_batch())[1]]
        for rows in found:
            np.testing.assert_array_equal(rows, np.stack([looped(3)[0]] * 3))

    def test_lanes_may_be_at_different_batches(self):
        """Lane j takes a batch in every (j + 1)-th step alone."""

        def lane(j, init_batch, next_batch):
            def step(state, i):
                new, batch = next_batch(state)
                goes_on = i % (j + 1) == 0
                state = jax.tree.map(lambda a, b: jnp.where(goes_on, a, b), new, state)
                return state, (goes_on, batch["y"])

            return jax.lax.scan(step, init_batch(j), jnp.arange(12))[1]

        with feed(load(), 3) as (init_batch, next_batch, _):
            found = jax.jit(jax.vmap(lambda j: lane(j, init_batch, next_batch)))(jnp.arange(3))
        wanted = looped(36)[0]
        for j, (goes_on, rows) in enumerate(zip(*found, strict=True)):
            taken = np.asarray(rows)[np.asarray(goes_on)]
            assert len(taken) == 12 // (j + 1)
            np.testing.assert_array_equal(taken, wanted[j::3][: len(taken)])

    @pytest.mark.parametrize("transform", ["shard_map", "pmap"])
    def test_devices_are_chains_by_name(self, transform):
        with feed(load(), 3) as (init_batch, next_batch, _):
            run = scanned(next_batch, 7)

            def chain(_):
                state = init_batch(chain=jax.lax.axis_index("device"), chains=4)
                return run(state)[1][0][None]

            if transform == "pmap":
                program = jax.pmap(chain, axis_name="device")
            else:
                spec = PartitionSpec("device")
                mesh = Mesh(np.array(jax.devices()[:4]), ("device",))
                program = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=spec, out_specs=spec))
            rows = program(np.arange(4))  # goes on while the block ends, which waits for it
        rows = np.asarray(rows).reshape(4, 7, 16)
        np.testing.assert_array_equal(np.swapaxes(rows, 0, 1).reshape(28, 16), looped(28)[0])

    def test_devices_of_one_program_read_the_stream_once(self, monkeypatch):
        """What one device passes over is there for the others."""
        begun = []
        made = Stream._seek
        monkeypatch.setattr(Stream, "_seek", lambda s, *a: (begun.append(a), made(s, *a))[1])
        with feed(load(), 3) as (init_batch, next_batch, _):
            program = jax.jit(scanned(next_batch, 3))
            states = [init_batch(chain=i, chains=4) for i in range(4)]
            for _ in range(3):
                states = [program(state)[0] for state in states]
        assert len(begun) == 1

    def test_chains_in_a_loop_one_after_the_other(self):
        wanted = looped(40)[0]
        with feed(load(), 3) as (init_batch, next_batch, _):
            program = jax.jit(scanned(next_batch, 20))
            for i in range(2):
                _, (rows, _) = program(init_batch(chain=i, chains=2))
                np.testing.assert_array_equal(rows, wanted[i::2])

    def test_lanes_on_several_devices(self):
        devices = Mesh(np.array(jax.devices()[:4]), ("chain",))
        with feed(load(), 3) as (init_batch, next_batch, _):
            states = jax.vmap(init_batch)(jnp.arange(4))
            states = jax.device_put(states, NamedSharding(devices, PartitionSpec("chain")))
            rows = np.asarray(jax.jit(jax.vmap(scanned(next_batch, 4)))(states)[1][0])
        np.testing.assert_array_equal(np.swapaxes(rows, 0, 1).reshape(16, 16), looped(16)[0])
