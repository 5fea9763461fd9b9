"""HDF5 files for tests: specs by dimension names, stores that close, other processes."""

import subprocess
import sys
import textwrap

import numpy as np

from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5 import HDF5Store

COMPRESSIONS = [None, "zstd", "lz4"]


def named(name, dims, shape, dtype="float32"):
    return ArraySpec(name, shape, tuple(max(n, 1) for n in shape), np.dtype(dtype), dims)


def in_other_process(code, *args):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class opened:
    def __init__(self, path, **keywords):
        self.store = HDF5Store.open(path, **keywords)

    def __enter__(self):
        return self.store

    def __exit__(self, *_):
        self.store.close()


class made(opened):
    def __init__(self, path, **keywords):
        self.store = HDF5Store.new(path, **keywords)
