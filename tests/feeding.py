"""What tests of `feed` share: a small data set, and the batches that a loop gives of it."""

from __future__ import annotations

import itertools
import threading

import h5py
import jax
import numpy as np

from jaxstore.loading.loader import Loader

X = np.arange(300, dtype=np.float32).reshape(100, 3)
Y = np.arange(100, dtype=np.int32)


def write_small_chunks(path):
    """The arrays above in chunks of 8 and 12 rows."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, chunks=(8, 3), fletcher32=True)
        file.create_dataset("y", data=Y, chunks=(12,))
    return path


def load(source=None, **how):
    source = {"x": X, "y": Y} if source is None else source
    return Loader(source, **{"batch_size": 16, "window_chunks": 3, **how})


def looped(n, source=None, **how):
    """Rows and masks of the first n batches, as a loop over the loader gives them."""
    with load(source, to="numpy", **how) as loader:
        epochs = itertools.chain.from_iterable(loader for _ in itertools.count())
        batches = [(b["y"].copy(), b.mask.copy()) for b in itertools.islice(epochs, n)]
    return tuple(np.stack(part) for part in zip(*batches, strict=True))


def shown(batch):
    return batch["y"], batch.mask


def scanned(next_batch, length):
    """A program that gives the state and the rows and masks of so many batches."""

    def step(state, _):
        state, batch = next_batch(state)
        return state, shown(batch)

    return lambda state: jax.lax.scan(step, state, length=length)


def assert_equal(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def our_threads():
    ours = ("jaxstore-read", "jaxstore-prefetch")  # not the writers of other tests
    return [t.name for t in threading.enumerate() if t.name.startswith(ours)]
