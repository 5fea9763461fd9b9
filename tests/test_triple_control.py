"""Draws are exact whatever control flow, gradient or caller is around `save`."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import KINDS, STORED, same

import jaxstore as js

N = 500
STORES = pytest.mark.parametrize("kind", STORED)


def counted_up(save, carry, steps, *, keep=lambda i: True):
    """Scan over steps; each adds one to x, and x is the draw."""

    def body(carry, i):
        state, x = carry
        state, _ = save(state, keep(i), {"x": x + 1})
        return (state, x + 1), None

    return jax.lax.scan(body, carry, steps)[0]


@pytest.mark.parametrize("loop", ["while_loop", "fori_loop", "cond"])
def test_other_control_flow(loop):
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=8)

    def body(i, state):
        if loop == "cond":
            keep = i % 3 == 0
            return jax.lax.cond(keep, lambda s: save(s, True, i)[0], lambda s: s, state)
        return save(state, i % 3 == 0, i)[0]

    @jax.jit
    def run():
        state = init_save(jnp.int32(0))
        if loop == "while_loop":
            last = jax.lax.while_loop(
                lambda c: c[0] < N, lambda c: (c[0] + 1, body(*c)), (jnp.int32(0), state)
            )
            return last[1]
        return jax.lax.fori_loop(0, N, body, state)

    assert postprocess_save(run())["samples"].tolist() == list(range(0, N, 3))


def test_gradient_inside_the_step():
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=16)

    @jax.jit
    def run(key):
        def step(carry, key):
            state, x = carry
            x = x - 0.1 * jax.grad(lambda y: jnp.sum(y**4))(x) + jax.random.normal(key, (3,))
            state, _ = save(state, True, x)
            return (state, x), x

        (state, _), xs = jax.lax.scan(step, (init_save(jnp.zeros(3)), jnp.zeros(3)), 
                                      jax.random.split(key, 100))  # fmt: skip
        return state, xs

    state, xs = run(jax.random.key(0))
    assert same(postprocess_save(state)["samples"], xs)


@pytest.mark.parametrize("is_jitted", [False, True])
def test_a_gradient_through_the_whole_run_loses_no_draw(is_jitted):
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=4)

    def loss(x):
        def step(carry, _):
            state, x = carry
            x = 0.9 * x
            state, _ = save(state, True, x)
            return (state, x), None

        (state, x), _ = jax.lax.scan(step, (init_save(jnp.zeros(2)), x), length=50)
        return jnp.sum(x), state

    grad = jax.grad(loss, has_aux=True)
    gradient, state = (jax.jit(grad) if is_jitted else grad)(jnp.ones(2))
    assert np.allclose(gradient, 0.9**50)
    want = 0.9 ** np.arange(1, 51)
    assert np.allclose(np.asarray(postprocess_save(state)["samples"])[:, 0], want)


def test_one_compiled_function_writes_to_the_collector_of_its_state():
    compiled = []

    def run(state, offset):
        compiled.append(1)
        return jax.lax.scan(lambda s, i: save(s, True, i + offset), state, jnp.arange(100))[0]

    _, save, _ = js.save(js.MemoryCollector())
    run = jax.jit(run)
    for offset in (0, 1000):
        init_save, _, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=8)
        saved = postprocess_save(run(init_save(jnp.int32(0)), offset))
        assert saved["samples"].tolist() == list(range(offset, offset + 100))
    assert compiled == [1]


def test_init_inside_jit_registers_new_chains_at_each_call():
    collector = js.MemoryCollector()
    init_save, save, postprocess_save = js.save(collector, buffer_draws=8)
    compiled = []

    @jax.jit
    def run(offset):
        compiled.append(1)
        state = init_save(jnp.int32(0))
        return jax.lax.scan(lambda s, i: save(s, True, i + offset), state, jnp.arange(20))[0]

    for call in range(3):
        samples = postprocess_save(run(100 * call))["samples"]
        assert samples.tolist() == list(range(100 * call, 100 * call + 20))
    assert compiled == [1]


@STORES
def test_a_scan_in_a_scan(kind, tmp_path):
    init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path), buffer_draws=4)

    @jax.jit
    def run():
        def epoch(carry, _):
            return counted_up(save, carry, jnp.arange(10), keep=lambda i: i % 2 == 0), None

        return jax.lax.scan(epoch, (init_save({"x": 0.0}), 0.0), length=5)[0][0]

    x = np.asarray(postprocess_save(run())["samples"]["x"])
    assert x.tolist() == [10 * e + i + 1 for e in range(5) for i in range(0, 10, 2)]


@STORES
@pytest.mark.parametrize("batch_size", [None, 2, 3])  # the last leaves a batch of one
def test_chains_of_lax_map(kind, batch_size, tmp_path):
    """Chains one after another, or a batch at a time; each has a session of its own."""
    init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path), buffer_draws=4)

    def chain(first):
        carry = (init_save({"x": 0.0}), 100 * first)
        return counted_up(save, carry, jnp.arange(10), keep=lambda i: i >= first)[0]

    state = jax.jit(lambda c: jax.lax.map(chain, c, batch_size=batch_size))(jnp.arange(4.0))
    saved = postprocess_save(state)
    assert saved["sample_count"].tolist() == [10, 9, 8, 7]
    for c, row in enumerate(np.asarray(saved["samples"]["x"])):
        assert row[: 10 - c].tolist() == [100 * c + i + 1 for i in range(c, 10)]


@STORES
def test_a_state_that_is_donated_to_each_call(kind, tmp_path):
    """The runtime writes over the ring while its draws wait for the writer."""
    init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path))
    part = jax.jit(lambda carry: counted_up(save, carry, jnp.arange(1000)), donate_argnums=0)
    carry = (init_save({"x": jnp.zeros(50)}), jnp.zeros(50))
    for _ in range(20):
        carry = part(carry)
    x = np.asarray(postprocess_save(carry[0])["samples"]["x"])
    assert (x == np.arange(1, 20_001)[:, None]).all()


@STORES
def test_programs_on_threads_of_their_own(kind, tmp_path):
    found = {}

    def run(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        init_save, save, postprocess_save = js.save(KINDS[kind](folder), buffer_draws=64)
        program = jax.jit(lambda carry: counted_up(save, carry, jnp.arange(5000))[0])
        state = program((init_save({"x": 0.0}), 1e5 * number))
        found[number] = np.asarray(postprocess_save(state)["samples"]["x"])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert (found[number] == 1e5 * number + np.arange(1, 5001)).all()


@STORES
def test_64_bits(kind, tmp_path):
    with jax.enable_x64(True):
        init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path), buffer_draws=4)
        carry = (init_save({"x": jnp.float64(0)}), jnp.float64(1) / 3)
        state = jax.jit(lambda carry: counted_up(save, carry, jnp.arange(20))[0])(carry)
        x = np.asarray(postprocess_save(state)["samples"]["x"])
    assert x.dtype == np.float64
    assert (x == np.add.accumulate([1 / 3] + 20 * [1.0])[1:]).all()
