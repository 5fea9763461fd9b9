"""`feed`: a program gets the batches of the loader, whatever surrounds the call."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import threading

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxstore.errors import BusyError, FormatError, MismatchError
from jaxstore.loading.epoch import Schedule
from jaxstore.loading.feed import feed
from jaxstore.loading.feed_host import Host
from jaxstore.loading.feed_stream import Stream, position_of
from jaxstore.loading.loader import Loader

X = np.arange(300, dtype=np.float32).reshape(100, 3)
Y = np.arange(100, dtype=np.int32)


@pytest.fixture
def small_chunks(tmp_path):
    """The arrays above in chunks of 8 and 12 rows."""
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, chunks=(8, 3), fletcher32=True)
        file.create_dataset("y", data=Y, chunks=(12,))
    return path


def load(source=None, **how):
    source = {"x": X, "y": Y} if source is None else source
    return Loader(source, **{"batch_size": 16, "window_chunks": 3, **how})


def looped(n, source=None, **how):
    """Rows and masks of the first n batches, as a loop over the loader gives them."""
    with load(source, to="numpy", **how) as loader:
        epochs = itertools.chain.from_iterable(loader for _ in itertools.count())
        batches = [(b["y"].copy(), b.mask.copy()) for b in itertools.islice(epochs, n)]
    return tuple(np.stack(part) for part in zip(*batches, strict=True))


def shown(batch):
    return batch["y"], batch.mask


def scanned(next_batch, length):
    """A program that gives the state and the rows and masks of so many batches."""

    def step(state, _):
        state, batch = next_batch(state)
        return state, shown(batch)

    return lambda state: jax.lax.scan(step, state, length=length)


def assert_equal(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def our_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("jaxstore")]


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


@pytest.fixture
def damaged(small_chunks):
    """The same with one bit of its last chunk turned."""
    with h5py.File(small_chunks) as file:
        at = file["x"].id.get_chunk_info(12).byte_offset
    data = bytearray(small_chunks.read_bytes())
    data[at] ^= 1
    small_chunks.write_bytes(data)
    return small_chunks


class TestErrors:
    def test_a_damaged_chunk_leaves_the_block_as_itself(self, damaged):
        with (
            pytest.raises(FormatError, match="x.*damaged"),
            feed(load(damaged), 2) as (init_batch, next_batch, _),
        ):
            jax.jit(scanned(next_batch, 8))(init_batch())  # not waited for
        assert not our_threads()

    @pytest.mark.parametrize("tells", ["init", "next", "release"])
    def test_without_a_block_the_next_call_tells_once(self, damaged, tells):
        init_batch, next_batch, release = feed(load(damaged), 2)
        state = init_batch()
        with pytest.raises(jax.errors.JaxRuntimeError):
            jax.block_until_ready(jax.jit(scanned(next_batch, 8))(state))
        told = {"init": init_batch, "next": lambda: next_batch(state), "release": release}
        with pytest.raises(FormatError, match="damaged"):
            told[tells]()
        release()

    def test_a_device_that_finds_no_damage_does_not_hide_it(self, damaged):
        made = feed(load(damaged, shuffle=False, window_chunks=1), 1)

        def ask(turn):
            words = np.array([turn, 0], np.uint32)
            return made.host.take(True, made.host.identity, 0, 1, words)

        with pytest.raises(FormatError, match="damaged"):
            ask(6)
        ask(0)
        with pytest.raises(FormatError, match="damaged"):
            made.release()

    @pytest.mark.parametrize("is_ahead", [False, True])
    def test_what_is_read_ahead_is_an_error_when_it_is_asked_for(self, damaged, is_ahead):
        parts = load(damaged, shuffle=False, window_chunks=1).parts
        stream = Stream(parts.engine, parts.recipe.schedule, is_ahead=is_ahead)

        def rows(*numbers):
            coming = stream.batches(list(numbers), stride=1, n_kept=0)
            return [batch.rows[0] for _, batch in coming]

        assert rows(0, 1, 2, 3) == [0, 16, 32, 48]
        assert rows(4) + rows(5) == [64, 80]
        for _ in range(2):
            with pytest.raises(FormatError, match="damaged"):
                rows(6)
        stream.close()

    def test_after_an_error_the_same_program_works(self, damaged, tmp_path):
        broken = damaged.read_bytes()
        init_batch, next_batch, release = feed(load(damaged), 2)
        program, state = jax.jit(scanned(next_batch, 8)), init_batch()
        with pytest.raises(jax.errors.JaxRuntimeError):
            jax.block_until_ready(program(state))
        with h5py.File(damaged) as file:
            at = file["x"].id.get_chunk_info(12).byte_offset
        mended = bytearray(broken)
        mended[at] ^= 1
        with damaged.open("r+b") as file:
            file.write(mended)
        _, found = program(state)
        assert_equal(found, looped(8, damaged))
        release()  # what was mended is not told

    @pytest.mark.parametrize("prefetch", [0, 2])
    def test_ctrl_c_while_the_host_is_asked_is_ctrl_c(self, prefetch):
        turns = itertools.count()

        def transform(arrays, seeds):
            if next(turns) == 4:
                raise KeyboardInterrupt
            return arrays

        loader = load(batch_transform=transform, prefetch=prefetch)
        with (
            pytest.raises(KeyboardInterrupt),
            feed(loader, 2) as (init_batch, next_batch, _),
        ):
            jax.block_until_ready(jax.jit(scanned(next_batch, 8))(init_batch()))
        assert not our_threads()

    def test_an_error_of_the_program_is_left_alone(self):
        with pytest.raises(ZeroDivisionError), feed(load(), 2) as (init_batch, next_batch, _):
            next_batch(next_batch(init_batch())[1 // 0])
        assert not our_threads()


class TestRelease:
    def test_no_thread_is_left_and_no_call_gets_through(self):
        init_batch, next_batch, release = feed(load(), 2)
        program, state = jax.jit(scanned(next_batch, 4)), init_batch()
        jax.block_until_ready(program(state))
        assert our_threads()
        release()
        release()
        assert not our_threads()
        for call in (init_batch, lambda: next_batch(state)):
            with pytest.raises(BusyError, match="was released"):
                call()
        with pytest.raises(jax.errors.JaxRuntimeError, match="was released"):
            jax.block_until_ready(program(state))
        release()

    def test_a_feed_that_nobody_has_ends_its_thread(self):
        made = feed(load(), 2)
        made.next_batch(made.init_batch())
        assert our_threads()
        del made
        jax.clear_caches()
        gc.collect()
        assert not our_threads()


class Elsewhere(SingleDeviceSharding):
    is_fully_addressable = False


class TestRefusals:
    def test_values_that_jax_would_change(self):
        wide = Loader({"x": X.astype(np.float64)}, batch_size=16, to="numpy")
        with pytest.raises(MismatchError, match="'x' is float64"):
            feed(wide)

    def test_values_that_a_transform_makes_wide(self):
        wide = load(to="numpy", batch_transform=lambda a, _: {"x": a["x"].astype(np.float64)})
        with pytest.raises(MismatchError, match="'x' is float64"):
            feed(wide)

    def test_batches_over_several_processes(self):
        parts = load(sharding=SingleDeviceSharding(jax.devices()[0])).parts
        target = Elsewhere(jax.devices()[0])
        far = parts._replace(destination=dataclasses.replace(parts.destination, target=target))
        with pytest.raises(MismatchError, match="several processes"):
            Host(far, None)

    def test_a_state_of_other_shape(self):
        with feed(load(), 2) as (init_batch, next_batch, _):
            states = jax.vmap(init_batch)(jnp.arange(3))
            with pytest.raises(MismatchError, match=r"\[3, 2, 16\].*vmap next_batch"):
                next_batch(states)
            with pytest.raises(TypeError, match="tuple is no state"):
                next_batch((1, 2))

    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"chain": 2, "chains": 2}, "chain 2 of 2"),
            ({"chain": -1, "chains": 2}, "chain must be"),
            ({"chain": 0, "chains": 0}, "chains must be"),
            ({"chain": 0}, "chain and chains"),
            ({"lane": 0, "chain": 0, "chains": 2}, "chain and chains"),
        ],
    )
    def test_chains_that_are_none(self, how, message):
        with feed(load()) as (init_batch, *_), pytest.raises(ValueError, match=message):
            init_batch(**how)

    def test_a_chain_that_turns_out_to_be_none(self):
        with (
            pytest.raises(ValueError, match="chain 5 of 2"),
            feed(load()) as (init_batch, next_batch, _),
        ):
            jax.jit(lambda i: next_batch(init_batch(chain=i, chains=2))[1])(5)

    def test_what_is_no_loader_and_no_number(self):
        with pytest.raises(TypeError, match="no loader"):
            feed({"x": X})
        with pytest.raises(ValueError, match="cached_batches must be"):
            feed(load(), 0)
