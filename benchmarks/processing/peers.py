"""dask and pyUSID on the same data."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from benchmarks.processing.data import ARRAY, N_VALUES
from benchmarks.processing.floor import BLOCK_ROWS
from benchmarks.processing.job import Job, Outputs, Read, Run
from benchmarks.processing.kernels import KERNELS

CORES = 2  # by default it leaves one of two alone


def dask(job: Job, *, is_jax: bool) -> tuple[Run, Read]:
    """`from_zarr`, `map_blocks`, `to_zarr` on its threads."""
    import dask.array as da
    import zarr

    kernel = KERNELS[job.kernel]
    of_block: Callable[[Any], dict[str, Any]] = kernel.of_block
    if is_jax:
        import jax

        jax.devices()
        of_block = jax.jit(jax.vmap(kernel.of_item))

    def apply(block: np.ndarray) -> np.ndarray:
        # One array for all outputs, as `map_blocks` gives one.
        found = [np.asarray(values, "f4") for values in of_block(block).values()]
        return found[0] if len(found) == 1 else np.stack(found, 1)

    n_columns = N_VALUES if job.kernel == "line" else len(kernel.shapes)

    def run() -> None:
        rows = min(job.n_items, BLOCK_ROWS)
        source = da.from_zarr(job.place, component=ARRAY, chunks=(rows, N_VALUES))
        target = zarr.create_group(job.target).create_array(
            "out",
            shape=(job.n_items, n_columns),
            chunks=(rows, n_columns),
            dtype="f4",
            compressors=None,
        )
        found = source.map_blocks(
            apply, dtype="f4", chunks=(source.chunks[0], (n_columns,)), meta=np.empty((0, 0), "f4")
        )
        found.to_zarr(target, scheduler="threads")

    def read(items: slice) -> Outputs:
        columns = zarr.open_array(f"{job.target}/out", mode="r")[items]
        if job.kernel == "line":
            return {"y": columns}
        return {name: columns[:, i] for i, name in enumerate(kernel.shapes)}

    return run, read


def pyusid(job: Job, *, cores: int) -> tuple[Run, Read]:
    """A `Process` of pyUSID as its documentation subclasses it, one spectrum in a call."""
    if not hasattr(np, "product"):
        np.product = np.prod  # type: ignore[attr-defined]  # pyUSID 0.0.12 calls it; NumPy 2 has none
    import h5py
    import pyUSID

    class Peaks(pyUSID.Process):  # type: ignore[misc]
        """Place and height of the largest Fourier coefficient."""

        def _create_results_datasets(self) -> None:
            target = h5py.File(job.target, "r+")
            self.h5_results_grp = target.create_group("raw-peaks_000")
            self.results = {
                name: self.h5_results_grp.create_dataset(name, (job.n_items,), kernel.dtypes[name])
                for name in kernel.shapes
            }

        def _write_source_dset_provenance(self) -> None:
            """Not measured."""

        def _write_results_chunk(self) -> None:
            positions = self._get_pixels_in_current_batch()
            for name, values in zip(self.results, zip(*self._results, strict=True), strict=True):
                self.results[name][positions] = values

        _map_function = staticmethod(one_peak)

    kernel = KERNELS["peak"]

    def run() -> None:
        with h5py.File(job.target, "w"):
            """Where results go."""
        with h5py.File(job.place, "r+") as source, redirect_stdout(sys.stderr):
            peaks = Peaks(source[ARRAY], "peaks", cores=cores, max_mem_mb=job.memory_bytes // 2**20)
            peaks.compute()
            peaks.h5_results_grp.file.close()

    def read(items: slice) -> Outputs:
        with h5py.File(job.target) as file:
            return {name: file["raw-peaks_000"][name][items] for name in kernel.shapes}

    return run, read


def one_peak(spectrum: np.ndarray, *_: Any, **__: Any) -> tuple[Any, ...]:
    """Height and place of one spectrum's peak, for workers that import it."""
    heights = np.abs(np.fft.rfft(spectrum))
    at = heights.argmax()
    return heights[at], at


CONTENDERS = {
    "dask, NumPy": functools.partial(dask, is_jax=False),
    "dask, JAX": functools.partial(dask, is_jax=True),
    "pyUSID, one core": functools.partial(pyusid, cores=1),
    "pyUSID, two cores": functools.partial(pyusid, cores=CORES),
}
