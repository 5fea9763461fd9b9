"""Sources and kernels for tests of processing, and what a plain loop makes of them."""

from __future__ import annotations

import threading

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import zarr

import jaxstore as js

QUIET = {"progress": False}


def waves(n_items=20, n_points=6, dtype="f4"):
    """Items that differ, and whose bits depend on how they are computed."""
    rng = np.random.default_rng(7)
    return (rng.normal(size=(n_items, n_points)) * 3).astype(dtype)


def peak(x, *, width=3):
    """A kernel with several outputs, in nested containers."""
    smooth = jnp.exp(jnp.sin(x) * width)
    return {"amp": smooth.max(), "at": (jnp.argmax(x), {"wave": smooth / smooth.sum()})}


def zarr_file(path, values, *, chunks=None, name="raw"):
    """Address of an array that was written to Zarr."""
    array = zarr.open_group(path, mode="a").create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks or (4, *values.shape[1:])
    )
    array[...] = values
    return f"{path}:/{name}"


def hdf5_file(path, values, *, chunks=None, name="raw"):
    """Address of an array that was written to HDF5."""
    with h5py.File(path, "a") as file:
        file.create_dataset(name, data=values, chunks=chunks)
    return f"{path}:/{name}"


def bits(result):
    """Names, dtypes, shapes and bits of all arrays of a result."""
    found = {name: np.asarray(result[name]) for name in result}
    return {name: (v.dtype.name, v.shape, v.tobytes()) for name, v in found.items()}


def files(folder):
    """Every file below a folder with its bytes."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Counted:
    """A kernel that notes the first value of every item that it computes.

    With as many items in a batch as in a unit nothing is filled up, so each item counts once.

    Args:
        fails_at: First value of an item that raises.
        until: How often it does so.
    """

    def __init__(self, *, fails_at=None, until=10**9):
        self.seen, self.fails_at, self.until = [], fails_at, until
        self._lock = threading.Lock()
        self.__name__ = "counted"

    def __call__(self, x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return {"double": jax.pure_callback(self._one, shape, x, vmap_method="sequential")}

    def _one(self, x):
        first = float(np.asarray(x).reshape(-1)[0])
        with self._lock:
            self.seen.append(first)
            if first == self.fails_at and self.until:
                self.until -= 1
                raise RuntimeError(f"no fit of {first}")
        return np.float32(2 * first)


def numbers(n_items, n_points=2):
    """Items whose values are all their index."""
    return np.repeat(np.arange(n_items, dtype="f4")[:, None], n_points, axis=1)


def run(function, source, target="memory", **settings):
    """`js.process` without a bar, one unit after the other."""
    return js.process(function, source, target, **{"engine": "serial", **QUIET, **settings})
