"""One of several processes that load one data set together; writes what it got.

Run: load_share.py PATH FOLDER (rank) (size) (port)    the last three for `jax.distributed`, whose
batches are global arrays; without them the ranks are those of MPI, and batches are their shares.
"""

import os
import sys

import jax
import numpy as np

import jaxstore as js
from jaxstore.topology import place

BATCH_ROWS, EPOCHS = 12, 2
path, folder, *numbers = sys.argv[1:]


def shares():
    """The part of each batch that is this rank's."""
    loader = js.Loader(path, ["x"], batch_size=BATCH_ROWS, window_chunks=4, to="numpy")
    for _ in range(EPOCHS):
        for batch in loader:
            yield batch["x"], batch.rows, np.asarray(batch.mask)


def global_arrays(rank, size, port):
    """The same as parts of arrays over all devices, two in each process."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", size, rank)
    assert len(jax.devices()) == 2 * size
    # Devices of the processes in turn, so that the rows of a process are no run of them.
    devices = np.array(jax.devices()).reshape(size, 2).T.reshape(-1)
    mesh = jax.sharding.Mesh(devices, ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    loader = js.Loader(path, ["x"], batch_size=BATCH_ROWS, window_chunks=4, sharding=sharding)
    step = jax.jit(lambda total, batch: total + batch["x"] * batch.mask[:, None])
    total = 0.0
    for _ in range(EPOCHS):
        for batch in loader:
            assert batch["x"].shape == (BATCH_ROWS, 3)
            total = step(total, batch)
            parts = sorted(batch["x"].addressable_shards, key=lambda part: part.index[0].start)
            masks = sorted(batch.mask.addressable_shards, key=lambda part: part.index[0].start)
            held = np.concatenate([np.arange(BATCH_ROWS)[part.index[0]] for part in parts])
            values = np.concatenate([part.data for part in parts])
            yield values, batch.rows, np.concatenate([part.data for part in masks]), held
    jax.distributed.shutdown()


found = list(global_arrays(*map(int, numbers)) if numbers else shares())
rank = int(numbers[0]) if numbers else place().rank
names = ("x", "rows", "mask", "held")[: len(found[0])]
columns = [np.stack(values) for values in zip(*found, strict=True)]
np.savez(os.path.join(folder, f"{rank}.npz"), **dict(zip(names, columns, strict=True)))
