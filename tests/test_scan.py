"""`js.scan` equals `lax.scan` on the draws it keeps, whatever the schedule, ring and collector."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import KINDS, STORED, ListCollector, assert_same, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxstore as js
from jaxstore.saving.scan import pace
from jaxstore.saving.schedule import Schedule

KEY = jax.random.key(7)
CHAINS = 3


def walk(x, i):
    """A step of one chain."""
    x = 0.9 * x + jax.random.normal(jax.random.fold_in(KEY, i), x.shape)
    return x, {"x": x, "i": i}


def walks(x, i):
    """The same for CHAINS chains, told apart by their start."""
    return jax.vmap(walk, in_axes=(0, None))(x, i)


START = jnp.arange(CHAINS * 2.0).reshape(CHAINS, 2)


def stacked(step, carry, n):
    """What lax.scan gives, chain axis first."""
    last, samples = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(n)))(carry)
    return last, jax.tree.map(lambda a: np.swapaxes(np.asarray(a), 0, 1), samples)


@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_of_every_chain_in_every_collector(kind, tmp_path):
    last, want = stacked(walks, START, 100)
    with KINDS[kind](tmp_path) as collector:
        carry, run = js.scan(
            walks, START, jnp.arange(100), chains=CHAINS, collector=collector, progress=False
        )
        assert same(carry, last)
        assert_same(run.samples, want)
        assert run.sample_count.tolist() == [100] * CHAINS
        assert run.state == "complete"
        assert same(run.iteration, np.tile(np.arange(100), (CHAINS, 1)))


def test_one_chain_without_a_chain_axis_in_its_samples():
    _, run = js.scan(walk, jnp.zeros(2), jnp.arange(50), progress=False)
    _, want = jax.lax.scan(walk, jnp.zeros(2), jnp.arange(50))
    assert_same(jax.tree.map(lambda a: a[0], run.samples), want)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(0, 60), thin=st.integers(1, 7), burn_in=st.integers(0, 20),
    slots=st.sampled_from([None, 1, 3, 8]),
)  # fmt: skip
def test_thinning_keeps_the_last_step_of_every_window_after_burn_in(n, thin, burn_in, slots):
    burn_in = min(burn_in, n)
    carry, run = js.scan(
        walks, START, jnp.arange(n), chains=CHAINS, thin=thin, burn_in=burn_in,
        buffer_draws=slots, progress=False,
    )  # fmt: skip
    last, want = stacked(walks, START, n)
    rows = np.arange(burn_in + thin - 1, n, thin)
    assert same(carry, last)
    assert run.iteration.tolist() == [rows.tolist()] * CHAINS
    assert_same(run.samples, jax.tree.map(lambda a: np.asarray(a)[:, rows], want))


@pytest.mark.parametrize("kind", STORED)
def test_a_mask_per_chain(kind, tmp_path):
    def keep(i):
        return (i + jnp.arange(CHAINS)) % (2 + jnp.arange(CHAINS)) == 0

    with KINDS[kind](tmp_path) as collector:
        _, run = js.scan(
            walks, START, jnp.arange(200), chains=CHAINS, keep=keep, collector=collector,
            buffer_draws=16, progress=False,
        )  # fmt: skip
        _, want = stacked(walks, START, 200)
        masks = np.asarray(jax.vmap(keep)(jnp.arange(200)).T)
        assert run.sample_count.tolist() == masks.sum(axis=1).tolist()
        for chain, mask in enumerate(masks):
            n = mask.sum()
            assert same(run.samples["x"][chain, :n], want["x"][chain, mask])
            assert run.iteration[chain, :n].tolist() == np.flatnonzero(mask).tolist()
            assert np.isnan(run.samples["x"][chain, n:]).all()
            assert not np.any(run.samples["i"][chain, n:])


def test_one_mask_for_all_chains():
    _, run = js.scan(
        walks, START, jnp.arange(90), chains=CHAINS, keep=lambda i: i % 7 == 3, progress=False
    )
    assert run.iteration.tolist() == [list(range(3, 90, 7))] * CHAINS


def test_length_alone_and_a_nested_carry_with_keys():
    def step(carry, _):
        key, state = carry["key"], carry["state"]
        key, sub = jax.random.split(key)
        state = (state[0] + jax.random.normal(sub), state[1] + 1)
        return {"key": key, "state": state}, {"key": sub, "n": state[1]}

    carry = {"key": jax.random.key(3), "state": (0.0, 0)}
    last, run = js.scan(step, carry, length=20, buffer_draws=3, progress=False)
    want_last, want = jax.lax.scan(step, carry, length=20)
    assert_same(last, want_last)
    assert_same(jax.tree.map(lambda a: a[0], run.samples), want)


def test_bits_do_not_depend_on_where_blocks_end(monkeypatch):
    runs = []
    for steps in (1, 7, 1000):
        monkeypatch.setattr("jaxstore.saving.scan.pace", lambda *a, n=steps, **k: n)
        _, run = js.scan(
            walks, START, jnp.arange(100), chains=CHAINS, thin=3, burn_in=5, progress=False
        )
        runs.append(run.samples)
    assert_same(runs[0], runs[1])
    assert_same(runs[0], runs[2])


@pytest.mark.parametrize("lengths", [(2000, 2000, 2000), (2000, 1000, 3000)])
def test_the_same_step_is_compiled_once(lengths):
    traced = []

    def step(x, _):
        traced.append(1)
        return x + 1, x

    for length in lengths:
        before = len(traced)
        js.scan(step, jnp.zeros(2), length=length, progress=False)
        traced.append(None)
    compiled = len(traced) - before - 1
    assert compiled <= 1  # shapes are asked for; nothing is compiled


def test_the_pace_grows_while_blocks_are_fast_and_shrinks_when_they_are_slow():
    assert pace(1, ran=1, took=1e-5) == 8
    assert pace(10**9, ran=10**9, took=1e-3) == 2**30
    assert pace(1000, ran=1000, took=25.0) == 10
    assert pace(1, ran=1, took=100.0) == 1


BAD = {
    "negative length": (dict(length=-1), "length"),
    "fractional length": (dict(length=1.5), "length"),
    "no length": (dict(), "number of steps"),
    "thin": (dict(length=3, thin=0), "thin"),
    "burn_in": (dict(length=3, burn_in=-1), "burn_in"),
    "long burn_in": (dict(length=3, burn_in=4), "shorter"),
    "buffer": (dict(length=3, buffer_draws=0), "buffer_draws"),
    "keep and thin": (dict(length=3, keep=lambda i: True, thin=2), "keep"),
    "too long": (dict(length=2**31), "2\\*\\*31"),
    "chains": (dict(length=3, chains=5), "axis 0"),
    "zero chains": (dict(length=3, chains=0), "chains"),
    "keep shape": (dict(length=3, chains=3, keep=lambda i: jnp.ones(2, bool)), "keep"),
}


@pytest.mark.parametrize("case", BAD)
def test_arguments_that_make_no_sense_are_refused_and_nothing_is_written(case, tmp_path):
    arguments, message = BAD[case]
    collector = js.ZarrCollector(tmp_path / "run.zarr")
    with pytest.raises(ValueError, match=message):
        js.scan(lambda x, _: (x, x), START, collector=collector, progress=False, **arguments)
    assert not list(tmp_path.iterdir())


def test_two_lengths_and_a_changing_carry_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        js.scan(lambda x, _: (x, x), 0.0, jnp.zeros(3), length=4)
    with pytest.raises(js.MismatchError, match=r"int32.*float32"):
        js.scan(lambda x, _: (x + 0.5, x), jnp.int32(0), length=4)
    with pytest.raises(js.MismatchError, match="must return what it takes"):
        js.scan(lambda x, _: ((x, x), x), 0.0, length=4)


def test_a_collector_takes_one_scan_and_none_after_it_closed(tmp_path):
    collector = js.MemoryCollector()
    js.scan(lambda x, _: (x, x), 0.0, length=4, collector=collector)
    with pytest.raises(js.BusyError, match="one scan"):
        js.scan(lambda x, _: (x, x), 0.0, length=4, collector=collector)
    collector.close()
    with pytest.raises(js.BusyError, match="closed"):
        js.scan(lambda x, _: (x, x), 0.0, length=4, collector=collector)


def test_users_collectors_and_tracers_are_sent_to_save():
    with pytest.raises(TypeError, match="use save"):
        js.scan(lambda x, _: (x, x), 0.0, length=4, collector=ListCollector())
    with pytest.raises(TypeError, match="inside jit"):
        jax.jit(lambda x: js.scan(lambda x, _: (x, x), x, length=4)[0])(0.0)


def test_schedule_counts_its_draws():
    assert Schedule(10, thin=3, burn_in=1).n_draws == 3
    assert Schedule(10, keep=lambda i: True).n_draws is None


def test_a_step_that_nobody_holds_is_let_go_with_what_it_closed_over():
    def run():
        data = jnp.arange(10.0)
        js.scan(lambda x, _: (x + data, x), data, length=5, progress=False)
        return weakref.ref(data)

    refs = [run() for _ in range(20)]
    gc.collect()
    assert sum(ref() is not None for ref in refs) <= 17


def test_a_step_without_a_hash_works():
    class Walk:
        __hash__ = None

        def __call__(self, x, _):
            return x + 1, x

    _, run = js.scan(Walk(), 0, length=5, progress=False)
    assert run.samples[0].tolist() == [0, 1, 2, 3, 4]
