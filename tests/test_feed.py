"""`feed`: a program gets the batches of the loader, with transforms and gradients."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from feeding import X, assert_equal, load, looped, scanned, write_small_chunks

from jaxstore.errors import MismatchError
from jaxstore.loading.epoch import Schedule
from jaxstore.loading.feed import feed
from jaxstore.loading.feed_stream import position_of
from jaxstore.loading.loader import Loader


@pytest.fixture
def small_chunks(tmp_path):
    return write_small_chunks(tmp_path / "data.h5")


class TestBatches:
    @pytest.mark.parametrize(
        ("remainder", "cached"),
        [("drop", 1), ("drop", 3), ("pad", 1), ("pad", 64), ("carry", 3), ("carry", 64)],
    )
    def test_a_scan_gets_what_a_loop_gets_epoch_after_epoch(self, small_chunks, remainder, cached):
        loader = load(small_chunks, remainder=remainder)
        with feed(loader, cached) as (init_batch, next_batch, _):
            program = jax.jit(scanned(next_batch, 22))
            _, first = program(init_batch())
            _, again = program(init_batch())
        assert_equal(first, looped(22, small_chunks, remainder=remainder))
        assert_equal(again, first)

    def test_carried_rows_reach_over_epochs_without_a_batch(self):
        how = {"batch_size": 64, "remainder": "carry"}
        with feed(load(n_rows=40, **how), 2) as (init_batch, next_batch, _):
            _, found = jax.jit(scanned(next_batch, 9))(init_batch())
        assert_equal(found, looped(9, n_rows=40, **how))

    def test_a_call_without_jit_and_a_while_loop_get_them_too(self):
        with feed(load(), 3) as (init_batch, next_batch, _):
            state, first = next_batch(init_batch())
            out = jnp.zeros((9, 16), jnp.int32).at[0].set(first["y"])

            def body(carry):
                i, state, out = carry
                state, batch = next_batch(state)
                return i + 1, state, out.at[i].set(batch["y"])

            _, _, out = jax.jit(
                lambda state, out: jax.lax.while_loop(lambda c: c[0] < 9, body, (1, state, out))
            )(state, out)
        np.testing.assert_array_equal(out, looped(9)[0])

    def test_all_of_a_batch_comes_but_the_rows(self):
        with feed(load()) as (init_batch, next_batch, _):
            _, batch = jax.jit(next_batch)(init_batch())
        np.testing.assert_array_equal(batch["x"], X[batch["y"]])
        assert batch.observation_count == 100
        assert batch.rows is batch.epoch is batch.index is None

    def test_a_count_beyond_32_bits_is_a_float(self, monkeypatch):
        monkeypatch.setattr(Schedule, "n_rows", 3_000_000_000)
        with feed(load()) as (init_batch, next_batch, _):
            _, batch = jax.eval_shape(next_batch, init_batch())
        assert batch.observation_count.dtype == np.float32

    def test_one_compilation_does_for_all_epochs(self):
        with feed(load(remainder="pad"), 2) as (init_batch, next_batch, _):
            step, state = jax.jit(next_batch), init_batch()
            for _ in range(16):
                state, _ = step(state)
            assert step._cache_size() == 1

    def test_no_thread_makes_batches_where_the_loader_has_none(self, monkeypatch):
        monkeypatch.setattr("jaxstore.loading.feed_stream.Prefetch", None)
        with feed(load(prefetch=0), 3) as (init_batch, next_batch, _):
            _, found = jax.jit(scanned(next_batch, 9))(init_batch())
        assert_equal(found, looped(9))

    def test_a_loader_that_shuffles_on_the_device_gives_the_same(self, monkeypatch):
        monkeypatch.setattr("jaxstore.loading.engine.DeviceGather", None)  # the host gathers
        with feed(load(shuffle_on="device"), 3) as (init_batch, next_batch, _):
            _, found = jax.jit(scanned(next_batch, 9))(init_batch())
        assert_equal(found, looped(9))

    def test_the_default_brings_about_8_mib_in_a_call(self, monkeypatch):
        sizes = {}
        for columns in (1, 2**15, 2**20):
            wide = np.zeros((4, columns), np.float32)
            state = feed(Loader({"x": wide}, batch_size=4)).init_batch()
            sizes[columns] = state.cached.mask.shape[0]
        assert sizes == {1: 64, 2**15: 15, 2**20: 1}


class TestPosition:
    @pytest.mark.parametrize("remainder", ["drop", "pad", "carry"])
    @pytest.mark.parametrize("n_rows", [7, 12, 30, 32])
    def test_arithmetic_finds_the_epoch_that_a_walk_finds(self, n_rows, remainder):
        schedule = Schedule(np.array([[0, n_rows]]), None, 6, remainder, 0, is_shuffled=False)
        walk = [(e, b) for e in range(20) for b in range(schedule.n_batches(e))]
        assert [
            (p.epoch, p.batch) for p in (position_of(schedule, i) for i in range(len(walk)))
        ] == walk

    def test_a_state_goes_on_after_any_other_was_used(self):
        wanted = looped(24)
        with feed(load(), 2) as (init_batch, next_batch, _):
            program = jax.jit(scanned(next_batch, 4))
            states = [init_batch()]
            for _ in range(5):
                states.append(program(states[-1])[0])
            for i in (5, 0, 3, 3, 1, 4):
                assert_equal(program(states[i])[1], [w[4 * i : 4 * i + 4] for w in wanted])

    def test_a_state_goes_on_with_another_loader_of_the_same_batches(self, small_chunks):
        with feed(load(small_chunks), 3) as (init_batch, next_batch, _):
            state, _ = jax.jit(scanned(next_batch, 10))(init_batch())
        kept = jax.tree.map(np.asarray, state)
        other = load(small_chunks, prefetch=0, max_inflight=1)
        with feed(other, 3) as (_, next_batch, _):
            _, found = jax.jit(scanned(next_batch, 10))(kept)
        assert_equal(found, [w[10:] for w in looped(20, small_chunks)])

    def test_the_count_of_batches_does_not_end_at_32_bits(self):
        loader = load(remainder="drop")
        with feed(loader, 2) as (init_batch, next_batch, _):
            turn = jnp.array([2**32 - 3, 0], jnp.uint32)
            state, (rows, _) = jax.jit(scanned(next_batch, 6))(init_batch()._replace(turn=turn))
        assert state.turn.tolist() == [3, 1]
        places = [position_of(loader.parts.recipe.schedule, 2**32 - 3 + i) for i in range(6)]
        for place, found in zip(places, rows, strict=True):
            batch = next(loader.iterate(place.epoch, place.batch))
            np.testing.assert_array_equal(found, batch["y"])

    def test_the_state_of_another_loader_is_refused(self):
        with feed(load(seed=1)) as (init_batch, _, _):
            other = init_batch()
        with pytest.raises(MismatchError, match="other data, order or batch size"):  # noqa: SIM117
            with feed(load(seed=2)) as (_, next_batch, _):
                next_batch(other)


def noisy(arrays, seeds):
    factor = (seeds % 1000 / 1000).astype(np.float32)
    return {"twice": arrays["x"] * factor[:, None], "y": arrays["y"]}


def shaken(arrays, keys):
    noise = jax.vmap(functools.partial(jax.random.normal, shape=(3,)))(keys)
    return {**arrays, "noise": noise}


class TestTransforms:
    def test_rows_are_augmented_as_in_a_loop(self):
        loader = load(batch_transform=noisy, device_transform=shaken)
        with feed(loader, 3) as (init_batch, next_batch, _):

            def step(state, _):
                state, batch = next_batch(state)
                return state, batch.arrays

            _, found = jax.jit(lambda s: jax.lax.scan(step, s, length=14))(init_batch())
        batches = [batch for _ in range(2) for batch in loader]
        assert set(found) == {"twice", "y", "noise"}
        for label, values in found.items():
            np.testing.assert_array_equal(values, np.stack([b[label] for b in batches]))

    def test_lanes_are_augmented_each_as_its_rows_are(self):
        with feed(load(device_transform=shaken), 2) as (init_batch, next_batch, _):

            def step(state, _):
                state, batch = next_batch(state)
                return state, batch["noise"]

            run = jax.vmap(lambda j: jax.lax.scan(step, init_batch(j), length=3)[1])
            _, alone = jax.lax.scan(step, init_batch(), length=6)
            lanes = jax.jit(run)(jnp.arange(2))
        np.testing.assert_array_equal(np.swapaxes(lanes, 0, 1).reshape(6, 16, 3), alone)

    def test_the_first_batch_tells_shapes_and_is_read_once(self):
        seen = []

        def transform(arrays, seeds):
            seen.append(arrays["y"][0])
            return {"y": arrays["y"].astype(np.float16)}

        with feed(load(batch_transform=transform, prefetch=0), 2) as (init_batch, next_batch, _):
            _, batch = next_batch(init_batch())
        assert batch["y"].dtype == np.float16
        assert len(seen) == len(set(seen)) >= 2

    def test_a_transform_that_changes_its_mind_is_named(self):
        turns = itertools.count()

        def transform(arrays, seeds):
            return {"y": arrays["y"].astype([np.int32, np.int16][next(turns) > 3])}

        loader = load(batch_transform=transform)
        with (
            pytest.raises(MismatchError, match="batch_transform made .*int16.* of batch 4"),
            feed(loader, 2) as (init_batch, next_batch, _),
        ):
            jax.block_until_ready(jax.jit(scanned(next_batch, 8))(init_batch()))


class TestGradients:
    @pytest.mark.parametrize("how", [jax.jit, lambda f: f], ids=["jit", "eager"])
    def test_a_loss_over_batches_has_its_gradient(self, how):
        with feed(load(), 3) as (init_batch, next_batch, _):

            def loss(w, state):
                def step(carry, _):
                    state, total = carry
                    state, batch = next_batch(state)
                    return (state, total + (batch["x"] @ w * batch.mask).sum()), batch["y"]

                (state, total), rows = jax.lax.scan(step, (state, 0.0), length=9)
                return total, (state, rows)

            gradient, (state, rows) = how(jax.grad(loss, has_aux=True))(jnp.ones(3), init_batch())
        wanted, masks = looped(9)
        np.testing.assert_array_equal(rows, wanted)
        np.testing.assert_allclose(gradient, X[wanted[masks]].sum(0), rtol=1e-6)
        assert state.turn.tolist() == [9, 0]

    def test_no_gradient_goes_into_the_batches(self):
        with feed(load(), 3) as (init_batch, next_batch, _):
            state, _ = next_batch(init_batch())

            def loss(state):
                state, batch = next_batch(state)
                return (batch["x"] ** 2).sum()

            gradient = jax.grad(loss, allow_int=True)(state)
        assert np.all(state.cached.arrays["x"][1] > 0)
        assert not np.any(gradient.cached.arrays["x"])

    def test_lanes_have_gradients_of_their_own(self):
        with feed(load(remainder="drop"), 2) as (init_batch, next_batch, _):

            def loss(w, lane):
                def step(carry, _):
                    state, total = carry
                    state, batch = next_batch(state)
                    return (state, total + (batch["x"] @ w).sum()), None

                return jax.lax.scan(step, (init_batch(lane), 0.0), length=3)[0][1]

            found = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(jnp.ones(3), jnp.arange(2))
        rows = looped(6, remainder="drop")[0]
        wanted = [X[rows[lane::2]].sum((0, 1)) for lane in range(2)]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
