"""Randomness of a row: one number for (seed, epoch, row), on the host and on the device.

Owned here: how it is mixed. It depends on nothing else, so what a transform does with it is the
same after a resumption, in any batch, and on any number of processes. The mixing is that of
SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195).
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt64

from jaxstore.loading.shuffle import Rows

Seeds = UInt64[np.ndarray, " rows"]
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def row_seeds(rows: Rows, *, seed: int, epoch: int) -> Seeds:
    """A number per row that looks random, the same on any machine.

    >>> a = row_seeds(np.arange(3), seed=0, epoch=0)
    >>> b = row_seeds(np.array([2]), seed=0, epoch=0)
    >>> bool(a[2] == b[0]), len(set(a.tolist()))
    (True, 3)
    """
    start = _start(seed, epoch)
    with np.errstate(over="ignore"):  # it counts modulo 2^64
        mixed = start + (rows.astype(np.uint64) + np.uint64(1)) * _STEP
        mixed = (mixed ^ (mixed >> _SHIFTS[0])) * _FACTORS[0]
        mixed = (mixed ^ (mixed >> _SHIFTS[1])) * _FACTORS[1]
        return mixed ^ (mixed >> _SHIFTS[2])


@lru_cache(4)
def _start(seed: int, epoch: int) -> np.uint64:
    (start,) = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    found: np.uint64 = start
    return found


def as_words(seeds: Seeds) -> np.ndarray:
    """Seeds as pairs of uint32, (rows, 2), which JAX takes without 64 bits.

    >>> as_words(np.array([2**32 + 5], np.uint64)).tolist()
    [[5, 1]]
    """
    return seeds.astype("<u8").view("<u4").reshape(-1, 2)


def row_keys(words: jax.Array) -> jax.Array:
    """Typed keys, one per row, out of pairs of uint32."""
    base = jax.random.key(0)

    def key_of(pair: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(base, pair[0]), pair[1])

    return jax.vmap(key_of)(jnp.asarray(words))
