"""Bounds of the machine, and the loop that a user would write by hand for one store.

A block of whole chunks is read in a slice, computed by one call of the compiled function, and
written as a chunk. It knows its store, notes no progress, and a kill loses all.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processing.data import ARRAY, CHUNK_ROWS, files, spectra
from benchmarks.processing.job import Job, Outputs, Read, Run
from benchmarks.processing.kernels import KERNELS, Kernel

BLOCK_ROWS = 4 * CHUNK_ROWS  # 16 MiB: of 4 to 32 MiB the fastest for `peak`


def cat(job: Job) -> tuple[Run, None]:
    """`cat` of the stored files."""
    paths = [str(path) for path in files(Path(job.place), job.n_items)]

    def run() -> None:
        subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)

    return run, None


def write(job: Job) -> tuple[Run, None]:
    """Blocks of the outputs from memory into plain files."""
    kernel = KERNELS[job.kernel]
    outputs = kernel.of_block(spectra(np.arange(min(job.n_items, BLOCK_ROWS))))

    def run() -> None:
        os.makedirs(job.target)
        for start in range(0, job.n_items, BLOCK_ROWS):
            for name, values in outputs.items():
                values.tofile(f"{job.target}/{name}-{start}")

    return run, None


def compute(job: Job) -> tuple[Run, None]:
    """The compiled kernel over a block in memory, two at once, as often as there are blocks."""
    import jax

    block = jax.device_put(spectra(np.arange(min(job.n_items, BLOCK_ROWS))))
    compiled = jax.jit(jax.vmap(KERNELS[job.kernel].of_item)).lower(block).compile()
    n_blocks = -(-job.n_items // BLOCK_ROWS)

    def once(_: int) -> None:
        jax.block_until_ready(compiled(block))

    def run() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(once, range(n_blocks)))

    return run, None


class ZarrPair:
    """Source and result in Zarr."""

    def __init__(self, job: Job, kernel: Kernel) -> None:
        import zarr

        self.source = zarr_source(job)
        group = zarr.create_group(job.target)
        self.results = {
            name: group.create_array(
                name,
                shape=(job.n_items, *shape),
                chunks=(min(job.n_items, BLOCK_ROWS), *shape),
                dtype=kernel.dtypes[name],
                compressors=None,
            )
            for name, shape in kernel.shapes.items()
        }

    def close(self) -> None:
        """Nothing is open."""


class HDF5Pair:
    """Source and result in HDF5 files."""

    def __init__(self, job: Job, kernel: Kernel) -> None:
        import h5py

        self.files = h5py.File(job.place), h5py.File(job.target, "w")
        self.source = self.files[0][ARRAY]
        self.results = {
            name: self.files[1].create_dataset(
                name,
                (job.n_items, *shape),
                kernel.dtypes[name],
                chunks=(min(job.n_items, BLOCK_ROWS), *shape),
            )
            for name, shape in kernel.shapes.items()
        }

    def close(self) -> None:
        """Close both."""
        for file in self.files:
            file.close()


def zarr_source(job: Job) -> Any:
    """The spectra, through zarr's own local store or obstore."""
    import zarr

    if "://" not in job.place:
        return zarr.open_array(f"{job.place}/{ARRAY}", mode="r")
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    return zarr.open_array(ObjectStore(from_url(job.place), read_only=True), path=ARRAY, mode="r")


def loop(
    job: Job, *, reads: Callable[[Any, int, int], Iterator[np.ndarray]], rows: int = BLOCK_ROWS
) -> tuple[Run, Read]:
    """Read, compute, write.

    Args:
        job: What is computed.
        reads: Gives blocks of so many rows, of so many, in turn.
        rows: In a block.
    """
    import jax

    Pair = HDF5Pair if job.is_hdf5 else ZarrPair
    kernel = KERNELS[job.kernel]
    import_for(job)

    def run() -> None:
        pair = Pair(job, kernel)
        compiled = jax.jit(jax.vmap(kernel.of_item))
        start = 0
        for block in reads(pair.source, job.n_items, rows):
            for name, values in compiled(block).items():
                pair.results[name][start : start + len(block)] = np.asarray(values)
            start += len(block)
        pair.close()

    return run, functools.partial(read_results, job)


def import_for(job: Job) -> None:
    """What opening would import."""
    import jax

    if job.is_hdf5:
        import h5py  # noqa: F401
    else:
        import zarr  # noqa: F401
    if "://" in job.place:
        import obstore  # noqa: F401
    jax.devices()  # the backend


def in_turn(source: Any, n_rows: int, rows: int) -> Iterator[np.ndarray]:
    """Each block when it is asked for."""
    for start in range(0, n_rows, rows):
        yield source[start : min(start + rows, n_rows)]


def ahead(source: Any, n_rows: int, rows: int) -> Iterator[np.ndarray]:
    """Each block by a thread, while the one before is computed and written."""
    with ThreadPoolExecutor(1) as pool:
        blocks = in_turn(source, n_rows, rows)
        pending = pool.submit(next, blocks, None)
        while (block := pending.result()) is not None:
            pending = pool.submit(next, blocks, None)
            yield block


def hand_written(job: Job) -> tuple[Run, Read]:
    """One thing after the other."""
    return loop(job, reads=in_turn)


def hand_written_ahead(job: Job) -> tuple[Run, Read]:
    """With a thread that reads ahead."""
    return loop(job, reads=ahead)


def chunk_by_chunk(job: Job) -> tuple[Run, Read]:
    """With a chunk of the source as a block."""
    return loop(job, reads=in_turn, rows=CHUNK_ROWS)


def read_results(job: Job, items: slice) -> Outputs:
    """What was written, under the names of the outputs."""
    if job.is_hdf5:
        import h5py

        with h5py.File(job.target) as file:
            return {name: file[name][items] for name in KERNELS[job.kernel].shapes}
    import zarr

    group = zarr.open_group(job.target, mode="r")
    return {name: np.asarray(group[name][items]) for name in KERNELS[job.kernel].shapes}


CONTENDERS = {
    "cat": cat,
    "write": write,
    "compute, two at once": compute,
    "hand-written": hand_written,
    "hand-written, ahead": hand_written_ahead,
    "chunk by chunk": chunk_by_chunk,
}
