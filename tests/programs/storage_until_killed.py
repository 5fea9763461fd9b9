"""Stores snapshots until it is killed; says how far it is after each `save`.

python storage_until_killed.py zarr|hdf5 PATH SAVE_EVERY
"""

import itertools
import sys

import numpy as np

from jaxstore.saving.storages import HDF5Storage, ZarrStorage

kind, path, save_every = sys.argv[1], sys.argv[2], int(sys.argv[3])
storage = {"zarr": ZarrStorage, "hdf5": HDF5Storage}[kind](2, 8, path)
print("begun", flush=True)
for i in itertools.count():
    storage.store(0.5 * i, np.full((2, 50), i) + np.arange(50), i)
    if save_every and i % save_every == save_every - 1:
        storage.save()
        print(f"saved {i // 2 + 1}", flush=True)
