from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstore.fingerprint import of_array, of_function, trace

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jaxstore import fingerprint
{moved}
table = jnp.arange(5.0)
@jax.custom_vjp
def scaled(x): return x * table[2]
scaled.defvjp(lambda x: (scaled(x), x), lambda x, g: (g,))
@jax.custom_jvp
def bent(x): return jnp.sin(x)
bent.defjvp(lambda p, t: (bent(*p), t[0]))
def step(carry, x):
    {comment}
    jax.debug.callback(lambda v: None, carry)
    doubled, _ = jax.lax.scan(lambda c, _: (c * 2, None), 1.0, length=3)
    carry = jax.nn.softplus(carry) + table[x] + doubled
    carry = jax.checkpoint(lambda c: scaled(bent(c)))(carry)
    carry = jax.pure_callback(np.sin, carry, carry)
    key = jax.random.fold_in(jax.random.key(0), x)
    return carry, {{"a": jax.random.normal(key)}}
print(fingerprint.of_function(step, 0.0, jnp.int32(1)))
print(fingerprint.trace(jax.grad(lambda c: bent(scaled(c))), 0.0).fingerprint)
mesh = jax.make_mesh((1, 1), ("first", "second"))
spread = jax.shard_map(lambda x: x + 1, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
print(fingerprint.of_function(spread, 0.0))
print(fingerprint.of_array(jax.random.key(3)), fingerprint.of_array(np.arange(3)))
"""


def test_processes_agree_whatever_their_hashes_and_the_lines_of_the_code_are():
    texts = [("", "pass"), ("\n\n# moved", "print('a comment and a print')  # of no effect")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(moved=moved, comment=comment)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONHASHSEED": seed},
        )
        for seed, (moved, comment) in zip("19", texts, strict=True)
    ]  # fmt: skip
    first, second = (process.communicate()[0].split()[-5:] for process in running)
    assert first == second
    assert len(first) == 5


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x * 3.0,
        lambda x: x * jnp.float32(2),
        lambda x: (x * 2.0, x),
        lambda x: jax.jit(lambda y: y * 2.0 + 0 * jnp.asarray(np.arange(3.0))[1])(x),
    ],
)
def test_another_computation_has_another_fingerprint(other):
    mine = of_function(lambda x: x * 2.0, jnp.float32(1))
    assert of_function(other, jnp.float16(1)) != mine
    assert of_function(lambda y: y * 2.0, jnp.float32(5)) == mine


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1e-12, lambda x: x + 2e-12),
        (lambda x: x * 0.0, lambda x: x * -0.0),
        (lambda x: x - 1, lambda x: 1 - x),
        (lambda x: jnp.where(x > 0, x, 2), lambda x: jnp.where(x >= 0, x, 2)),
        (lambda x: jnp.sum(x[None], dtype="f4"), lambda x: jnp.prod(x[None], dtype="f4")),
        (lambda x: jnp.clip(x, 0, 1), lambda x: jnp.clip(x, 0, True)),
        (
            lambda x: jax.random.normal(jax.random.key(1)),
            lambda x: jax.random.normal(jax.random.key(2)),
        ),
        (
            lambda x: jnp.dot(x[None], x[None]),
            lambda x: jnp.dot(x[None], x[None], precision="highest"),
        ),
    ],
)
def test_what_differs_in_little_differs(one, other):
    assert of_function(one, 0.5) != of_function(other, 0.5)


def test_settings_of_jax_that_change_the_result_change_the_fingerprint():
    def kernel(x):
        return jax.random.normal(jax.random.key(1), (3,)) + jnp.dot(x[None], x[None])

    mine = trace(kernel, 0.5).fingerprint
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        assert trace(kernel, 0.5).fingerprint != mine
    with jax.default_matmul_precision("float32"):
        assert trace(kernel, 0.5).fingerprint != mine
    with jax.enable_x64(True):
        assert trace(kernel, 0.5).fingerprint != mine
    with np.printoptions(precision=1, legacy="1.13"):
        assert trace(kernel, 0.5).fingerprint == mine


def through_scan(read):
    return lambda x: jax.lax.scan(lambda c, _: (c + jnp.sum(read()), None), x, None, length=3)[0]


def through_custom_vjp(read):
    @jax.custom_vjp
    def scaled(x):
        return x * jnp.sum(read())

    scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (g * jnp.sum(read()),))
    return lambda x: scaled(x) + jax.grad(scaled)(x)


WAYS = {
    "plain": lambda read: lambda x: x + jnp.sum(read()),
    "jit": lambda read: jax.jit(lambda x: jax.jit(lambda y: y + jnp.sum(read()))(x)),
    "scan": through_scan,
    "cond": lambda read: lambda x: jax.lax.cond(x > 0, lambda: x + jnp.sum(read()), lambda: x),
    "while": lambda read: (
        lambda x: jax.lax.while_loop(lambda c: c < 5, lambda c: c + jnp.sum(read()) + 9, x)
    ),
    "custom_vjp": through_custom_vjp,
    "vmap": lambda read: lambda x: jax.vmap(lambda y: y + read())(x[None]),
    "checkpoint": lambda read: jax.checkpoint(lambda x: x + jnp.sum(read())),
    "custom_root": lambda read: (
        lambda x: jax.lax.custom_root(
            lambda y: y - jnp.sum(read()), x, lambda f, y: f(y), lambda f, y: y
        )
    ),
}
CAPTURED = {
    "numpy": (np.arange(3000.0), np.arange(3000.0) + (np.arange(3000) == 1500)),
    "jax": (jnp.arange(3000.0), jnp.arange(3000.0).at[1500].set(0)),
    "scalar": (1.5, 2.5),
    "key": (jax.random.key_data(jax.random.key(1)), jax.random.key_data(jax.random.key(2))),
}


@pytest.mark.parametrize(
    ("way", "kind"),
    [
        *((way, "numpy") for way in WAYS),
        *((way, "scalar") for way in WAYS),
        *(("scan", kind) for kind in ("jax", "key")),
    ],
)
def test_a_captured_value_that_changes_is_seen_in_the_same_function(way, kind):
    held = {}
    kernel = WAYS[way](lambda: held["value"])
    found = []
    for held["value"] in (*CAPTURED[kind], CAPTURED[kind][0]):
        traced = trace(kernel, jnp.float32(0.5))
        found.append(traced.fingerprint)
        # Another function of the same text, of which JAX remembers nothing.
        fresh = WAYS[way](lambda: held["value"])
        np.testing.assert_array_equal(traced.call(jnp.float32(0.5)), fresh(jnp.float32(0.5)))
        assert of_function(fresh, jnp.float32(0.5)) == traced.fingerprint
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_an_array_edited_in_place_is_seen():
    table = np.arange(5000.0)
    before = of_function(lambda x: x + table, 1.0)
    table[2500] = 0
    assert of_function(lambda x: x + table, 1.0) != before


def helper(x):
    return x + 1


def step_with_helper(carry, _):
    return helper(carry), None


@jax.jit
def jitted_with_helper(x):
    return helper(x)


def kernel_with_helper(x):
    looped = jax.lax.scan(step_with_helper, x, None, length=3)[0]
    return {"loop": looped, "jit": jitted_with_helper(x), "plain": helper(x)}


def test_a_helper_that_is_defined_again_is_seen_and_computed(monkeypatch):
    before, plain = trace(kernel_with_helper, 1.0), of_function(kernel_with_helper, 1.0)
    monkeypatch.setitem(globals(), "helper", lambda x: x + 5)
    after = trace(kernel_with_helper, 1.0)
    assert after.fingerprint != before.fingerprint
    assert of_function(kernel_with_helper, 1.0) != plain
    batched = jax.jit(jax.vmap(after.call))(jnp.arange(2.0))
    assert jax.tree.map(list, batched) == {"loop": [15, 16], "jit": [5, 6], "plain": [5, 6]}
    assert jax.tree.map(float, before.call(0.0)) == {"loop": 3, "jit": 1, "plain": 1}


def test_what_is_traced_takes_and_gives_pytrees():
    item = {"a": np.ones(2, "f4"), "b": (np.float32(2), np.zeros((2, 1), "f4"))}
    traced = trace(lambda x: (x["a"] * x["b"][0], {"c": x["b"][1]}), item)
    first, second = traced.call(item)
    np.testing.assert_array_equal(first, [2, 2])
    assert second["c"].shape == (2, 1)


def on_host(x):
    return jax.pure_callback(np.sin, x, x)


def inside_a_loop(x):
    return jax.lax.scan(lambda c, _: (on_host(c), None), x, None, length=2)[0]


def prints(x):
    jax.debug.print("{x}", x=x)
    return x


def test_callbacks_that_compute_are_found_and_those_that_print_are_not():
    x = jnp.float32(1)
    assert [trace(f, x).has_callback for f in (on_host, inside_a_loop)] == [True, True]
    assert not trace(prints, x).has_callback
    assert not trace(jax.jit(jnp.sin), x).has_callback


@pytest.mark.parametrize(
    "other", [np.arange(4), np.arange(3.0), np.arange(3)[None], np.arange(3, dtype="int8"), -1]
)
def test_arrays_differ_by_shape_dtype_and_bits(other):
    assert of_array(other) != of_array(np.arange(3))
    assert of_array(np.arange(6)[::2] // 2) == of_array(np.arange(3))


def test_an_array_is_its_values_not_the_order_of_its_bytes():
    assert of_array(np.arange(3, dtype=">f4")) == of_array(np.arange(3, dtype="<f4"))
    swapped = np.arange(3, dtype="<f4").view(">f4")
    assert of_array(swapped) != of_array(np.arange(3, dtype="<f4"))
    assert of_array(np.float32(1)) != of_array(np.ones(1, "f4"))
