"""The data set of the processing benchmark: spectra, each with one strong frequency that is known.

Owned here: what is stored and where, once in every format, and what must come out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.dataset import keep

N_VALUES = 4096  # of a spectrum, float32
ITEM_BYTES = 4 * N_VALUES
CHUNK_ROWS = 256  # 4 MiB
N_ROWS = 61_440  # 1 GB, for which targets hold
ARRAY = "raw"
STORES = ("raw.zarr", "raw.h5", "usid.h5")
_NOISE_SEED = 0


@dataclass(frozen=True, slots=True)
class Data:
    """The stores of one length; they all hold the same numbers."""

    folder: Path
    n_rows: int

    def __post_init__(self) -> None:
        if self.n_rows < 1 or self.n_rows % CHUNK_ROWS:
            raise ValueError(f"rows must be a multiple of {CHUNK_ROWS}, got {self.n_rows}")

    @classmethod
    def of(cls, bench: Bench, *, n_rows: int = N_ROWS) -> Data:
        """Those of a benchmark run."""
        return cls(bench.folder, min(n_rows, 2 * CHUNK_ROWS) if bench.is_quick else n_rows)

    @property
    def n_bytes(self) -> int:
        """Of all spectra."""
        return self.n_rows * ITEM_BYTES

    def path(self, store: str) -> Path:
        """Where one of `STORES` lies."""
        return self.folder / f"spectra-{self.n_rows}-{store}"


def make(data: Data, store: str) -> Path:
    """Where one of `STORES` lies, written and in the page cache."""
    write = {"raw.zarr": write_zarr, "raw.h5": write_hdf5, "usid.h5": write_usid}[store]
    return keep(data.path(store), lambda path: write(path, data.n_rows))


def frequency(item: Any) -> Any:
    """The strongest one of a spectrum, in whole periods; of many if given many."""
    return 1 + item * 7919 % (N_VALUES // 2 - 2)


@cache
def _parts() -> tuple[np.ndarray, np.ndarray]:
    """Noise of a chunk, and one period of a wave."""
    noise = np.random.default_rng(_NOISE_SEED).standard_normal((CHUNK_ROWS, N_VALUES), np.float32)
    return noise, np.sin(2 * np.pi / N_VALUES * np.arange(N_VALUES)).astype("f4")


def spectra(items: np.ndarray) -> np.ndarray:
    """Some of them: a wave in noise.

    >>> spectra(np.array([300, 2])).shape
    (2, 4096)
    """
    noise, wave = _parts()
    places = np.arange(N_VALUES)
    shifts = items // CHUNK_ROWS  # so that no two chunks are the same
    shifted = noise[(items % CHUNK_ROWS)[:, None], (places - shifts[:, None]) % N_VALUES]
    return shifted + wave[frequency(items)[:, None] * places % N_VALUES]


def blocks(n_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """First row and numbers of every chunk."""
    for start in range(0, n_rows, CHUNK_ROWS):
        yield start, spectra(np.arange(start, start + CHUNK_ROWS))


def write_zarr(path: Path, n_rows: int) -> None:
    """Chunks as they are."""
    import zarr

    array = zarr.create_group(path).create_array(
        ARRAY,
        shape=(n_rows, N_VALUES),
        chunks=(CHUNK_ROWS, N_VALUES),
        dtype="f4",
        compressors=None,
        dimension_names=("spectrum", "value"),
    )
    for start, block in blocks(n_rows):
        array[start : start + CHUNK_ROWS] = block


def write_hdf5(path: Path, n_rows: int) -> None:
    """Chunks without filters."""
    import h5py

    with h5py.File(path, "w") as file:
        chunks = (CHUNK_ROWS, N_VALUES)
        dataset = file.create_dataset(ARRAY, (n_rows, N_VALUES), "f4", chunks=chunks)
        for start, block in blocks(n_rows):
            dataset[start : start + CHUNK_ROWS] = block


def write_usid(path: Path, n_rows: int) -> None:
    """A main dataset with its ancillary ones, as USID has them."""
    write_hdf5(path, n_rows)
    import h5py

    tables = {
        "Position_Indices": np.arange(n_rows, dtype="u4")[:, None],
        "Position_Values": np.arange(n_rows, dtype="f4")[:, None],
        "Spectroscopic_Indices": np.arange(N_VALUES, dtype="u4")[None],
        "Spectroscopic_Values": np.arange(N_VALUES, dtype="f4")[None],
    }
    with h5py.File(path, "r+") as file:
        main = file[ARRAY]
        main.attrs.update({"quantity": "Height", "units": "a.u."})
        for name, table in tables.items():
            file[name] = table
            axis = "X" if name.startswith("Position") else "Time"
            file[name].attrs.update({"labels": [axis], "units": ["s"]})
            main.attrs[name] = file[name].ref


def files(path: Path, n_rows: int) -> list[Path]:
    """The files that hold the numbers."""
    if path.suffix == ".h5":
        return [path]
    return [path / ARRAY / "c" / str(chunk) / "0" for chunk in range(n_rows // CHUNK_ROWS)]
