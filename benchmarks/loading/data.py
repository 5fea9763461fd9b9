"""The data set of the loading benchmark: two variables, written once in every format.

Owned here: what is stored, where, and which files hold it. Who reads it how is its contender's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.dataset import keep

INNER = {"x": (128, 128), "y": (64, 64)}  # of one row of each variable, float32
ROW_BYTES = sum(4 * int(np.prod(shape)) for shape in INNER.values())
N_ROWS = 16384  # targets hold for these
CHUNK_ROWS = 64
BATCH_ROWS = 256
WINDOW_CHUNKS = 16
STORES = ("raw.zarr", "zstd.zarr", "raw.h5", "gzip.h5")


@dataclass(frozen=True, slots=True)
class Data:
    """The stores of one length; they all hold the same numbers."""

    folder: Path
    n_rows: int

    def __post_init__(self) -> None:
        # So that no loader may drop a row: there is no short batch, and no short chunk.
        if self.n_rows < 1 or self.n_rows % BATCH_ROWS:
            raise ValueError(f"rows must be a multiple of {BATCH_ROWS}, got {self.n_rows}")

    @classmethod
    def of(cls, bench: Bench, *, part: int = 1) -> Data:
        """Those of a benchmark run, or a part of as many rows."""
        n_rows = BATCH_ROWS if bench.is_quick else N_ROWS
        return cls(bench.folder, max(BATCH_ROWS, n_rows // part))

    @property
    def n_bytes(self) -> int:
        """Of all variables, decoded."""
        return self.n_rows * ROW_BYTES

    def path(self, store: str) -> Path:
        """Where one of `STORES` lies."""
        return self.folder / f"{self.n_rows}-{store}"


def make(data: Data, store: str) -> Path:
    """Where one of `STORES` lies, written and in the page cache."""
    write = write_zarr if store.endswith(".zarr") else write_hdf5
    is_raw = store.startswith("raw")
    return keep(data.path(store), lambda path: write(path, data.n_rows, is_raw=is_raw))


def blocks(n_rows: int) -> Iterator[tuple[str, int, np.ndarray]]:
    """Variable, first row and numbers of every chunk; `[:, 0, 0]` holds the number of the row."""
    rng = np.random.default_rng(0)
    for name, inner in INNER.items():
        for start in range(0, n_rows, CHUNK_ROWS):
            # Two digits, as instruments have them: random bits would not compress at all.
            block = np.round(rng.standard_normal((CHUNK_ROWS, *inner), np.float32), 2)
            block[:, 0, 0] = np.arange(start, start + CHUNK_ROWS)
            yield name, start, block


def write_zarr(path: Path, n_rows: int, *, is_raw: bool) -> None:
    """Raw chunks, or Zarr's default compression."""
    import zarr

    group = zarr.create_group(path)
    arrays = {
        name: group.create_array(
            name,
            shape=(n_rows, *inner),
            chunks=(CHUNK_ROWS, *inner),
            dtype="f4",
            compressors=None if is_raw else "auto",
            dimension_names=("row", f"{name}_0", f"{name}_1"),
        )
        for name, inner in INNER.items()
    }
    for name, start, block in blocks(n_rows):
        arrays[name][start : start + CHUNK_ROWS] = block


def write_hdf5(path: Path, n_rows: int, *, is_raw: bool) -> None:
    """Raw chunks, or shuffle and gzip."""
    import h5py

    filters = {} if is_raw else {"shuffle": True, "compression": "gzip", "compression_opts": 1}
    with h5py.File(path, "w") as file:
        for name, inner in INNER.items():
            shape, chunks = (n_rows, *inner), (CHUNK_ROWS, *inner)
            file.create_dataset(name, shape, "f4", chunks=chunks, **filters)
        for name, start, block in blocks(n_rows):
            file[name][start : start + CHUNK_ROWS] = block


def files(path: Path, n_rows: int) -> list[Path]:
    """The files that hold the numbers, in the order of rows."""
    if path.suffix == ".h5":
        return [path]
    n_chunks = n_rows // CHUNK_ROWS
    return [
        path / name / "c" / str(chunk) / "0" / "0" for name in INNER for chunk in range(n_chunks)
    ]
