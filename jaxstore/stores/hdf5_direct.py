"""Chunks of a dataset as they lie in the file, past its filters.

Owned here: h5py's lock around them. HDF5 bears one thread at a time, and h5py before 3.16 left
these two calls without its lock (h5py pull request 2764), so that a write failed, or the process
ended, while another thread was in HDF5.
"""

from __future__ import annotations

from collections.abc import Buffer

import h5py
from h5py._objects import phil  # the lock of all other calls; there is no public name of it


def write_chunk(
    dataset: h5py.Dataset, origin: tuple[int, ...], data: Buffer, *, skipped: int = 0
) -> None:
    """Put the bytes of the chunk at an origin; `skipped` has a bit per filter that was not run."""
    with phil:
        dataset.id.write_direct_chunk(origin, data, skipped)


def read_chunk(dataset: h5py.Dataset, origin: tuple[int, ...]) -> tuple[int, bytes]:
    """The filters that were not run, as bits, and the bytes of the chunk at an origin."""
    with phil:
        found: tuple[int, bytes] = dataset.id.read_direct_chunk(origin)
        return found
