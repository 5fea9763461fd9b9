from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstore import fingerprint

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jaxstore import fingerprint
table = jnp.arange(5.0)
def step(carry, x):
    jax.debug.callback(lambda v: None, carry)
    doubled, _ = jax.lax.scan(lambda c, _: (c * 2, None), 1.0, length=3)
    carry = jax.nn.softplus(carry) + table[x] + doubled
    key = jax.random.fold_in(jax.random.key(0), x)
    return carry, {"a": jax.random.normal(key)}
print(fingerprint.of_function(step, 0.0, jnp.int32(1)))
print(fingerprint.of_array(jax.random.key(3)), fingerprint.of_array(np.arange(3)))
"""


def test_two_processes_agree():
    first, second = (
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout == second.stdout
    assert len(first.stdout.split()) == 3


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
    mine = fingerprint.of_function(lambda x: x * 2.0, jnp.float32(1))
    assert fingerprint.of_function(other, jnp.float16(1)) != mine
    assert fingerprint.of_function(lambda y: y * 2.0, jnp.float32(5)) == mine


def test_constants_and_their_values_count():
    a, b = jnp.arange(100.0), jnp.arange(100.0).at[57].set(0)
    of = fingerprint.of_function
    assert of(lambda x: x + a, 1.0) != of(lambda x: x + b, 1.0)
    again = jnp.arange(100.0)
    assert of(lambda x: x + a, 1.0) == of(lambda x: x + again, 1.0)


@pytest.mark.parametrize(
    "other", [np.arange(4), np.arange(3.0), np.arange(3)[None], np.arange(3, dtype="int8"), -1]
)
def test_arrays_differ_by_shape_dtype_and_bits(other):
    assert fingerprint.of_array(other) != fingerprint.of_array(np.arange(3))
    assert fingerprint.of_array(np.arange(6)[::2] // 2) == fingerprint.of_array(np.arange(3))
