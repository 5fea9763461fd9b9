"""Specs and values for the tests of stores, and what makes two arrays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxstore.stores.base import ArraySpec, Store

Array = np.ndarray[Any, Any]
Reopen = Callable[[], Store]


def spec(
    name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Any = "float32", **attrs: Any
) -> ArraySpec:
    dims = ("chain", "draw", *(f"dim_{i}" for i in range(len(shape))))[: len(shape)]
    return ArraySpec(name, shape, chunks, np.dtype(dtype), dims, attrs)


def numbers(shape: tuple[int, ...], dtype: Any = "float32", seed: int = 0) -> Array:
    """Random values, among them both signs and, where there are such bits, NaN and inf."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.name in ("bool", "int2", "int4", "uint4"):
        return rng.integers(0, 2, shape).astype(dtype)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def ramp(shape: tuple[int, ...], dtype: Any = "float32") -> Array:
    return np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype)


def assert_same_bits(found: Array, wanted: Array) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert found.tobytes() == wanted.tobytes()
