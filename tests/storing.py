"""Storages for tests: one of each kind, snapshots to give them, and what they must hold then."""

import numpy as np

from jaxstore.saving.storages import HDF5Storage, NumpyStorage, ZarrStorage

STREAMING = {"zarr": (ZarrStorage, "paths.zarr"), "hdf5": (HDF5Storage, "paths.h5")}
ALL = {"npz": (NumpyStorage, "paths.npz"), **STREAMING}


def make(kind, folder, stride=1, chunk_size=4, **options):
    storage, name = ALL[kind]
    sizes = (stride,) if kind == "npz" else (stride, chunk_size)
    return storage(*sizes, folder / name, **options)


def snapshot(i, shape=(2, 3), dtype="float64"):
    return (np.arange(np.prod(shape, dtype=int)).reshape(shape) + 100 * i).astype(dtype)


def feed(storage, iterations, **kind):
    for i in iterations:
        storage.store(0.5 * i, snapshot(i, **kind), i)


def assert_holds(values, iterations, **kind):
    time, data = values
    assert time.shape == (len(iterations),)
    assert np.asarray(time).tolist() == [0.5 * i for i in iterations]
    wanted = [snapshot(i, **kind) for i in iterations]
    if wanted:
        assert data.dtype == wanted[0].dtype
        np.testing.assert_array_equal(np.asarray(data), np.stack(wanted, axis=-1))
    assert data.shape[-1] == len(iterations)
