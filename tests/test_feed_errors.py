"""`feed`: what goes wrong on the host arrives as itself, and all ends well."""

from __future__ import annotations

import dataclasses
import gc
import itertools

import h5py
import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from feeding import X, assert_equal, load, looped, our_threads, scanned, write_small_chunks
from jax.sharding import SingleDeviceSharding

from jaxstore.errors import BusyError, FormatError, MismatchError
from jaxstore.loading.device import placement
from jaxstore.loading.engine import make_engine
from jaxstore.loading.feed import feed
from jaxstore.loading.feed_host import Host
from jaxstore.loading.feed_stream import Stream
from jaxstore.loading.loader import Loader
from jaxstore.loading.memory import plan_memory
from jaxstore.topology import Place


@pytest.fixture
def small_chunks(tmp_path):
    return write_small_chunks(tmp_path / "data.h5")


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
        size = parts.recipe.schedule.batch_size
        goal = placement("numpy", Place(0, 1, "alone"), None, size)
        memory = plan_memory(parts.recipe, parts.work)
        engine = make_engine(parts.recipe, memory, parts.destination, goal)
        stream = Stream(engine, parts.recipe.schedule, is_ahead=is_ahead)

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


def test_the_feed_of_a_loader_that_was_closed_says_so():
    loader = Loader({"x": np.zeros((20, 2), "f4")}, batch_size=4)
    with feed(loader) as (init_batch, next_batch, _):
        state, _ = next_batch(init_batch())
        loader.close()
        with pytest.raises(BusyError, match=r"loader .* was closed"):
            next_batch(state)


def test_the_error_of_another_program_is_not_told_by_the_release():
    """JAX keeps an error of a callback for whoever waits next."""

    def fail():
        raise ZeroDivisionError("not ours")

    def run():
        jax.block_until_ready(jax.jit(lambda: jax.experimental.io_callback(fail, None))())
        jax.effects_barrier()

    init_batch, next_batch, release = feed(load())
    next_batch(init_batch())
    with pytest.raises(jax.errors.JaxRuntimeError, match="not ours"):
        run()
    release()
    assert not our_threads()
