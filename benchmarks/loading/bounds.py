"""Bounds of the machine, and plain reads without a loader."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loading.data import BATCH_ROWS, CHUNK_ROWS, INNER, WINDOW_CHUNKS, files
from benchmarks.loading.job import Epoch, Job, Opener, Piece

THREADS = 2
GETS = 16  # at a time
COPIED_BYTES = 64 * 2**20  # by each call of memcpy; larger than the cache


def cat(job: Job) -> Opener:
    """`cat` of the stored files."""
    paths = [str(path) for path in files(Path(job.place), job.n_rows)]

    def epoch() -> Iterator[Piece]:
        subprocess.run(["cat", *paths], stdout=subprocess.DEVNULL, check=True)
        yield from ()

    return lambda: epoch


def memcpy(job: Job) -> Opener:
    """A copy of as many bytes as the epoch has, between two buffers touched before."""
    source, target = np.ones(COPIED_BYTES, "u1"), np.ones(COPIED_BYTES, "u1")
    left = job.n_rows * sum(4 * int(np.prod(inner)) for inner in INNER.values())

    def epoch() -> Iterator[Piece]:
        for start in range(0, left, COPIED_BYTES):
            n = min(COPIED_BYTES, left - start)
            target[:n] = source[:n]
        yield from ()

    return lambda: epoch


def read_decode(job: Job) -> Opener:
    """Two threads read and decode every chunk, each into a buffer of its own; no batches."""
    read = local_reader(job.place)
    buffers = [
        {v: np.ones((CHUNK_ROWS, *inner), "f4") for v, inner in INNER.items()}
        for _ in range(THREADS)
    ]
    numbers = {v: np.empty((job.n_rows, 1, 1), "f4") for v in INNER}

    def work(thread: int) -> None:
        for chunk in range(thread, job.n_rows // CHUNK_ROWS, THREADS):
            for v, buffer in buffers[thread].items():
                read(v, chunk, buffer)
                numbers[v][chunk * CHUNK_ROWS :][:CHUNK_ROWS, 0, 0] = buffer[:, 0, 0]

    def epoch() -> Iterator[Piece]:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
        yield Piece(numbers)

    return lambda: epoch


def local_reader(place: str) -> Callable[[str, int, np.ndarray], None]:
    """What reads a chunk of a variable into its place, past every library but the codec's."""
    if place.endswith(".h5"):
        return hdf5_reader(place)
    from numcodecs.zstd import Zstd

    codec = None if place.endswith("raw.zarr") else Zstd()

    def read(v: str, chunk: int, target: np.ndarray) -> None:
        flat = target.reshape(-1).view("u1")
        fd = os.open(f"{place}/{v}/c/{chunk}/0/0", os.O_RDONLY)
        try:
            if codec is None:
                os.preadv(fd, [flat], 0)
            else:
                codec.decode(os.pread(fd, os.fstat(fd).st_size, 0), out=flat)
        finally:
            os.close(fd)

    return read


def hdf5_reader(place: str) -> Callable[[str, int, np.ndarray], None]:
    """The same for chunks of HDF5 without filters, outside its lock."""
    import h5py

    with h5py.File(place) as file:
        offsets: dict[str, dict[int, int]] = {v: {} for v in INNER}
        for v, found in offsets.items():
            file[v].id.chunk_iter(
                lambda info, found=found: found.update(
                    {info.chunk_offset[0] // CHUNK_ROWS: info.byte_offset}
                )
            )
    fd = os.open(place, os.O_RDONLY)

    def read(v: str, chunk: int, target: np.ndarray) -> None:
        os.preadv(fd, [target.reshape(-1).view("u1")], offsets[v][chunk])

    return read


def zarr_group(job: Job) -> Any:
    """The arrays, through zarr's own local store or obstore."""
    import zarr

    if not job.is_url:
        return zarr.open_group(job.place, mode="r")
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    return zarr.open_group(ObjectStore(from_url(job.place), read_only=True), mode="r")


def zarr_chunks(job: Job, *, chunks: int = 1) -> Opener:
    """Zarr's own reads, so many chunks in a call, one call after another."""
    import zarr  # noqa: F401

    rows = chunks * CHUNK_ROWS

    def opener() -> Epoch:
        group = zarr_group(job)
        arrays = {v: group[v] for v in INNER}

        def epoch() -> Iterator[Piece]:
            n_reads = -(-job.n_rows // rows)
            for start in np.random.default_rng(job.seed).permutation(n_reads) * rows:
                for v, array in arrays.items():
                    yield Piece({v: array[start : start + rows]})

        return epoch

    return opener


def zarr_slabs(job: Job) -> Opener:
    """A window of chunks in a call."""
    return zarr_chunks(job, chunks=WINDOW_CHUNKS)


def h5py_slices(job: Job) -> Opener:
    """A chunk in a call, one call after another."""
    import h5py

    def opener() -> Epoch:
        file = h5py.File(job.place)
        arrays = {v: file[v] for v in INNER}

        def epoch() -> Iterator[Piece]:
            for chunk in np.random.default_rng(job.seed).permutation(job.n_rows // CHUNK_ROWS):
                for v, array in arrays.items():
                    yield Piece({v: array[chunk * CHUNK_ROWS : (chunk + 1) * CHUNK_ROWS]})

        return epoch

    return opener


def h5py_shuffled(job: Job) -> Opener:
    """A window by slices into one block, then batches of its rows in another order."""
    import h5py

    def opener() -> Epoch:
        file, rng = h5py.File(job.place), np.random.default_rng(job.seed)
        arrays = {v: file[v] for v in INNER}
        window_rows = WINDOW_CHUNKS * CHUNK_ROWS
        blocks = {v: np.empty((window_rows, *inner), "f4") for v, inner in INNER.items()}

        def epoch() -> Iterator[Piece]:
            chunks = rng.permutation(job.n_rows // CHUNK_ROWS)
            for window in np.split(chunks, range(WINDOW_CHUNKS, len(chunks), WINDOW_CHUNKS)):
                for k, chunk in enumerate(window):
                    stored, place = (
                        np.s_[i * CHUNK_ROWS : (i + 1) * CHUNK_ROWS] for i in (chunk, k)
                    )
                    for v, array in arrays.items():
                        array.read_direct(blocks[v], stored, place)
                order = rng.permutation(len(window) * CHUNK_ROWS)
                for start in range(0, len(order), BATCH_ROWS):
                    chosen = order[start : start + BATCH_ROWS]
                    yield Piece({v: block[chosen] for v, block in blocks.items()})

        return epoch

    return opener


def obstore_gets(job: Job) -> Opener:
    """`obstore.get` in threads, each decoding into its place of a buffer used again."""
    import obstore
    from numcodecs.zstd import Zstd
    from obstore.store import from_url

    codec = Zstd()
    places = {v: np.ones((GETS, CHUNK_ROWS, *inner), "f4") for v, inner in INNER.items()}
    numbers = {v: np.empty((job.n_rows, 1, 1), "f4") for v in INNER}

    def opener() -> Epoch:
        store = from_url(job.place)

        def work(thread: int) -> None:
            for at in range(thread, job.n_rows // CHUNK_ROWS * len(INNER), GETS):
                chunk, v = at // len(INNER), list(INNER)[at % len(INNER)]
                place = places[v][thread]
                stored = obstore.get(store, f"{v}/c/{chunk}/0/0").bytes()
                codec.decode(stored, out=place.reshape(-1).view("u1"))
                numbers[v][chunk * CHUNK_ROWS :][:CHUNK_ROWS, 0, 0] = place[:, 0, 0]

        def epoch() -> Iterator[Piece]:
            with ThreadPoolExecutor(GETS) as pool:
                list(pool.map(work, range(GETS)))
            yield Piece(numbers)

        return epoch

    return opener


CONTENDERS = {
    "cat": cat,
    "memcpy": memcpy,
    "read + decode": read_decode,
    "zarr chunks": zarr_chunks,
    "zarr windows": zarr_slabs,
    "h5py slices": h5py_slices,
    "h5py slices, shuffled": h5py_shuffled,
    "obstore.get": obstore_gets,
}
UNCHECKED = {"cat", "memcpy"}  # they hand over no rows
