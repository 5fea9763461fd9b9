"""Compiled kernels: any number of items, the same bits whatever surrounds them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxstore.processing.aligned import aligned_empty
from jaxstore.processing.batches import batches
from jaxstore.processing.kernel import kernel_of
from jaxstore.processing.program import compile_program, memory_of

D = 48
WEIGHTS = np.random.default_rng(0).normal(size=(D, D)).astype("f4")
KERNELS = {
    "fft": lambda x: jnp.abs(jnp.fft.rfft(x)),
    "matmul": lambda x: WEIGHTS @ x,
    "softmax": lambda x: jax.nn.softmax(x * 3),
    "sort": lambda x: jnp.cumsum(jnp.sort(x)),
    "scan": lambda x: lax.scan(lambda c, v: (c * 0.9 + jnp.sin(v), c), jnp.float32(0), x),
    "conv": lambda x: jnp.convolve(x, WEIGHTS[0, :7], mode="same"),
    "cholesky": lambda x: jnp.linalg.cholesky(jnp.outer(x, x) + D * jnp.eye(D)),
    "while_loop": lambda x: lax.while_loop(
        lambda s: (s[1] < 99) & (jnp.abs(s[0]) > 1e-3),
        lambda s: (s[0] * 0.9 + 0.001 * jnp.sin(s[0]), s[1] + 1),
        (jnp.sum(x) * 10, 0),
    ),
}  # fmt: skip


def items(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)).astype("f4")


def program_of(function, batch_size, item=np.zeros(D, "f4"), **params):  # noqa: B008
    return compile_program(kernel_of(function, item, params), batch_size)


@pytest.mark.parametrize("name", KERNELS)
def test_an_item_has_the_same_bits_whatever_is_with_it(name):
    program = program_of(KERNELS[name], 16)
    values = items(50)
    whole = [np.array(leaf) for leaf in jax.tree.leaves(program(values))]
    rng = np.random.default_rng(1)
    for n in (1, 5, 16, 33):  # filled up with 15, 11, 0 and 15 repeats
        picked = rng.permutation(50)[:n]
        for there, here in zip(whole, jax.tree.leaves(program(values[picked])), strict=True):
            assert there[picked].tobytes() == here.tobytes()


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9])
def test_any_number_of_items_comes_out_in_order(n):
    program = program_of(lambda x: {"x": x * 2, "first": x[0], "k": 1.0}, 4)
    values = items(n)
    out = program(values)
    np.testing.assert_array_equal(out["x"], values * 2)
    np.testing.assert_array_equal(out["first"], values[:, 0] * 2 / 2)
    assert out["k"].shape == (n,)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(out))


def test_the_last_batch_is_filled_up_with_its_last_item():
    values = {"a": items(6), "b": np.arange(6)}  # zeros would make kernels divide by them
    (first, places), (last, rest) = batches(values, 4)
    assert (places, rest) == (range(4), range(4, 6))
    np.testing.assert_array_equal(first["b"], [0, 1, 2, 3])
    np.testing.assert_array_equal(last["b"], [4, 5, 5, 5])
    np.testing.assert_array_equal(last["a"][1:], np.stack([values["a"][5]] * 3))


def test_no_items_are_refused():
    with pytest.raises(ValueError, match="there must be items"):
        program_of(lambda x: x, 4)(items(0))


def test_pytrees_parameters_and_both_byte_orders():
    item = {"a": np.zeros(2, "f4"), "b": np.zeros((), "i2")}
    program = program_of(lambda x, *, by: (x["a"] * by, x["b"] + 1), 4, item, by=np.float32(3))
    values = {"a": np.arange(10, dtype=">f4").reshape(5, 2), "b": np.arange(5, dtype=">i2")}
    scaled, following = program(values)
    np.testing.assert_array_equal(scaled, values["a"] * 3)
    np.testing.assert_array_equal(following, np.arange(1, 6))
    assert following.dtype == np.dtype("i2")


def test_a_function_of_batches_gets_whole_ones():
    seen = []

    def double(xs):
        seen.append(xs.shape[0])
        return xs * 2

    kernel = kernel_of(double, np.zeros(D, "f4"), {}, is_batched=True)
    out = compile_program(kernel, 16)(items(21))
    np.testing.assert_array_equal(out, items(21) * 2)
    assert seen == [2, 3, 16]


@pytest.mark.parametrize("is_aligned", [True, False])
def test_what_the_caller_overwrites_afterwards_changes_nothing(is_aligned):
    program = program_of(lambda x: (x, x[:3], x + 1), 4)
    values = aligned_empty((4, D), np.dtype("f4")) if is_aligned else np.empty((5, D), "f4")[1:]
    values[:] = items(4)
    out = program(values)
    values[:] = np.nan
    np.testing.assert_array_equal(out[0], items(4))
    np.testing.assert_array_equal(out[1], items(4)[:, :3])


def test_aligned_items_are_used_in_place():
    values = aligned_empty((64, 1024), np.dtype("f4"))
    values[:] = 1
    assert np.shares_memory(np.asarray(jax.device_put(values)), values)


def test_threads_share_a_program():
    program = program_of(KERNELS["fft"], 8)
    parts = [items(11, seed) for seed in range(24)]
    alone = [program(part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(program, parts))
    for one, two in zip(alone, together, strict=True):
        assert one.tobytes() == two.tobytes()


def test_memory_counts_temporaries():
    n = 256
    program = program_of(lambda x: jnp.sort(jnp.outer(x, x), axis=0).sum(0), 4, np.zeros(n, "f4"))
    stats = program.run.memory_analysis()
    assert stats.temp_size_in_bytes >= 4 * n * n * 4
    assert program.n_bytes >= 2 * stats.temp_size_in_bytes + 4 * n * 4


def test_memory_counts_items_that_are_never_used():
    item = {"used": np.zeros(4, "f4"), "not": np.zeros(1000, "f4")}
    assert program_of(lambda x: x["used"], 8, item).n_bytes >= 8 * 4000


@pytest.mark.parametrize("told", ["nothing", "zeros", "refuses"])
def test_a_backend_that_tells_nothing_is_taken_to_need_three_times(told):
    fields = ("argument", "output", "temp", "alias")
    zeros = SimpleNamespace(**{f"{field}_size_in_bytes": 0 for field in fields})

    def analysis():
        if told == "refuses":
            raise NotImplementedError
        return None if told == "nothing" else zeros

    assert memory_of(SimpleNamespace(memory_analysis=analysis), 100, 20) == 360
