"""Collectors for tests, one per place that draws can go to, and what came back from them."""

import h5py
import jax
import numpy as np
import obstore.store
import zarr

import jaxstore as js


class ListCollector:
    """A user's own collector, as `DataCollector` wants it: keeps every draw in a list."""

    def __init__(self):
        self.draws = {}
        self.treedef = None
        self.finalized = []

    def register_chain(self, init_sample=None, init_checkpoint=None, static_information=None):
        self.treedef = jax.tree.structure(init_sample)
        self.draws[len(self.draws)] = []
        return len(self.draws) - 1

    def save(self, chain_id, values):
        self.draws[chain_id].append(values)

    def finalize(self, chain_id):
        self.finalized.append(chain_id)

    def finished(self, chain_id):
        assert chain_id in self.finalized
        columns = zip(*self.draws[chain_id], strict=True)
        return jax.tree.unflatten(self.treedef, [np.stack(column) for column in columns])


KINDS = {
    "memory": lambda tmp: js.MemoryCollector(),
    "hdf5": lambda tmp: js.HDF5Collector(tmp / "run.h5"),
    "hdf5 handle": lambda tmp: js.HDF5Collector(h5py.File(tmp / "mine.h5", "w")),
    "zarr": lambda tmp: js.ZarrCollector(tmp / "run.zarr"),
    "zarr url": lambda tmp: js.ZarrCollector("memory://"),
    "obstore": lambda tmp: js.ZarrCollector(obstore.store.MemoryStore()),
    "zarr store": lambda tmp: js.ZarrCollector(zarr.storage.MemoryStore()),
}
STORED = ("memory", "hdf5", "zarr")


def same(a, b):
    """Whether two arrays are equal in shape, dtype and every bit; keys by their data."""
    if jax.dtypes.issubdtype(getattr(a, "dtype", None), jax.dtypes.prng_key):
        return str(a.dtype) == str(b.dtype) and same(jax.random.key_data(a), jax.random.key_data(b))
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same(found, wanted):
    """Two trees of arrays, equal to the bit."""
    assert jax.tree.structure(jax.tree.map(lambda x: 0, found)) == jax.tree.structure(
        jax.tree.map(lambda x: 0, wanted)
    )
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(wanted), strict=True
    ):
        assert same(a[...], b), f"{jax.tree_util.keystr(path)}: {a[...]} is not {b}"
