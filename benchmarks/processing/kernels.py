"""What is computed: the strongest frequency of a spectrum, and a straight line.

Owned here: each kernel for JAX, one item at a time, and for NumPy, a block at a time. JAX is
imported when it is needed: peers that fork do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.processing.data import N_VALUES, frequency, spectra

SLOPE, OFFSET = np.float32(1.5), np.float32(-0.25)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One computation in both languages."""

    of_item: Callable[[Any], dict[str, Any]]  # for JAX
    of_block: Callable[[Array], dict[str, Array]]  # for NumPy
    shapes: Mapping[str, tuple[int, ...]]  # of the outputs of an item
    dtypes: Mapping[str, str]
    is_right: Callable[[Array, dict[str, Array]], bool]  # whether outputs are those of items

    @property
    def is_large(self) -> bool:
        """Whether outputs are arrays."""
        return () not in self.shapes.values()


def peak(x: Any) -> dict[str, Any]:
    """Place and height of the largest Fourier coefficient."""
    import jax.numpy as jnp

    heights = jnp.abs(jnp.fft.rfft(x))
    return {"amp": jnp.max(heights), "pos": jnp.argmax(heights)}


def top(x: Any) -> dict[str, Any]:
    """The same; XLA on a CPU finds an argmax in 10 µs, of 15 in all, and this in 3."""
    import jax
    import jax.numpy as jnp

    height, place = jax.lax.top_k(jnp.abs(jnp.fft.rfft(x)), 1)
    return {"amp": height[0], "pos": place[0]}


def peak_block(block: Array) -> dict[str, Array]:
    """The same of many."""
    heights = np.abs(np.fft.rfft(block))
    return {"amp": heights.max(1), "pos": heights.argmax(1).astype("i4")}


def is_peak(items: Array, found: dict[str, Array]) -> bool:
    """Whether each item has its own wave, of about the height it was made with."""
    heights = found["amp"] / (N_VALUES / 2)
    return np.array_equal(found["pos"], frequency(items)) and bool((abs(heights - 1) < 0.2).all())


def line(x: Any) -> dict[str, Any]:
    """An output as large as the item, and next to no work."""
    return {"y": x * SLOPE + OFFSET}


def line_block(block: Array) -> dict[str, Array]:
    """The same of many."""
    return {"y": block * SLOPE + OFFSET}


def is_line(items: Array, found: dict[str, Array]) -> bool:
    """Whether each value lies on the line."""
    wanted = line_block(spectra(items))["y"]
    # A compiler may round once where NumPy rounds twice.
    return found["y"].shape == wanted.shape and np.allclose(found["y"], wanted, atol=1e-6)


KERNELS = {
    "peak": Kernel(peak, peak_block, {"amp": (), "pos": ()}, {"amp": "f4", "pos": "i4"}, is_peak),
    "top": Kernel(top, peak_block, {"amp": (), "pos": ()}, {"amp": "f4", "pos": "i4"}, is_peak),
    "line": Kernel(line, line_block, {"y": (N_VALUES,)}, {"y": "f4"}, is_line),
}
