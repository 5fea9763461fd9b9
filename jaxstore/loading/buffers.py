"""Host memory of batches: aligned, and used again once nobody refers to it.

Owned here: when a buffer may be written again. On the CPU JAX takes an aligned array as it is, even
when told that it may not, so an array of JAX can be the same memory; and it is seen by NumPy's
count of references, which counts every view, every array of JAX and every DLPack capsule.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstore.sources.geometry import Array

ALIGNMENT = 64  # bytes; below it JAX copies on the CPU (measured: 32 are copied)


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Buffers:
    """Sets of arrays of given shapes; `take` gives one that nothing refers to.

    Fresh memory costs more in page faults than gathering a batch into it.

    Args:
        specs: Of the arrays of a set, by label.
    """

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self._specs = dict(specs)
        self._sets: list[dict[str, _Owner]] = []

    def take(self) -> dict[str, Array]:
        """Arrays to write into; what they hold is left from before."""
        for owners in self._sets:
            if all(owner.is_idle() for owner in owners.values()):
                break
        else:
            owners = {label: _Owner(spec) for label, spec in self._specs.items()}
            self._sets.append(owners)
        return {label: owner.view() for label, owner in owners.items()}


class _Owner:
    """Memory that every array made from it keeps alive, and is counted by."""

    __slots__ = ("_bits", "_idle", "_spec", "_start")

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._bits = np.empty(spec.nbytes + ALIGNMENT, np.uint8)
        self._start = -self._bits.ctypes.data % ALIGNMENT
        self._idle = sys.getrefcount(self._bits)

    def is_idle(self) -> bool:
        return sys.getrefcount(self._bits) == self._idle

    def view(self) -> Array:
        # NumPy makes `_bits` the base of every view, and of views of views.
        flat = self._bits[self._start : self._start + self._spec.nbytes]
        return flat.view(self._spec.dtype).reshape(self._spec.shape)
