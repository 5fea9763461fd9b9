"""What tells two programs apart, and two arrays: short texts that are equal in any process.

Owned here: fingerprints of functions, by what JAX makes of them, and of array values. What is
compared, and what it means if it differs, is its caller's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a callback or a rule, another in each process
_LENGTH = 16  # hexadecimal digits; no adversary, so 64 bits suffice


def of_function(function: Callable[..., Any], *args: Any) -> str:
    """Fingerprint of what a function computes: its jaxpr for these arguments, and its constants.

    Equal programs have equal ones under one version of JAX; another version may write the jaxpr
    of the same program otherwise. What a callback does on the host is not seen.

    Args:
        function: Is traced, not run.
        args: Arrays or shapes.

    >>> of_function(lambda x: x + 1, 0.0) == of_function(lambda y: y + 1, 5.0)
    True
    >>> of_function(lambda x: x + 1, 0.0) == of_function(lambda x: x + 2, 0.0)
    False
    """
    closed = jax.make_jaxpr(function)(*args)
    digest = hashlib.sha256(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    for constant in closed.consts:
        digest.update(of_array(constant).encode())
    return digest.hexdigest()[:_LENGTH]


def of_array(value: ArrayLike) -> str:
    """Fingerprint of shape, dtype and bits of an array; of a typed key, those of its data.

    >>> of_array(np.zeros(3)) == of_array(np.zeros(3, "float32"))
    False
    """
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:_LENGTH]
