"""Other packages' loaders, set up as their documentation advises. Each is imported when it runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np

from benchmarks.loading.data import BATCH_ROWS, CHUNK_ROWS, INNER, WINDOW_CHUNKS
from benchmarks.loading.job import Epoch, Job, Opener, Piece


def insitubatch(job: Job) -> Opener:
    """Its whole loader, through obstore."""
    from insitubatch import InSituDataset, obstore_store, open_geometries, split_by_chunk

    def opener() -> Epoch:
        store = obstore_store(job.place if job.is_url else f"file://{job.place}")
        geometries = open_geometries(store, list(INNER))
        manifest = split_by_chunk(next(iter(geometries.values())), fractions=(1.0, 0.0, 0.0))
        data = InSituDataset(
            store,
            manifest,
            geometries,
            batch_size=BATCH_ROWS,
            block_chunks=WINDOW_CHUNKS,
            seed=job.seed,
        )

        def epoch() -> Iterator[Piece]:
            for batch in data.train:
                yield Piece(batch.arrays, batch.sample_indices)

        return epoch

    return opener


def annbatch(job: Job) -> Opener:
    """Two loaders with equal generators, as it takes one array; zarrs decodes, as it advises."""
    import zarr
    from annbatch import Loader

    if importlib.util.find_spec("zarrs") is not None:
        import zarrs  # noqa: F401

        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

    def opener() -> Epoch:
        group = zarr.open_group(job.place, mode="r")
        loaders = [
            Loader(
                chunk_size=CHUNK_ROWS,
                preload_nchunks=WINDOW_CHUNKS,
                batch_size=BATCH_ROWS,
                shuffle=True,
                preload_to_gpu=False,
                rng=np.random.default_rng(job.seed),
            ).add_dataset(group[v])
            for v in INNER
        ]

        def epoch() -> Iterator[Piece]:
            for outputs in zip(*loaders, strict=True):
                yield Piece({v: output["X"] for v, output in zip(INNER, outputs, strict=True)})

        return epoch

    return opener


def grain(job: Job) -> Opener:
    """A chunk of both variables is a record; rows are shuffled in a window after it."""
    import grain.python as grain
    import zarr
    from grain import experimental

    class Chunks:
        """Records for grain."""

        def __init__(self) -> None:
            group = zarr.open_group(job.place, mode="r")
            self.arrays = {v: group[v] for v in INNER}

        def __len__(self) -> int:
            return job.n_rows // CHUNK_ROWS

        def __getitem__(self, chunk: int) -> dict[str, np.ndarray]:
            start = int(chunk) * CHUNK_ROWS
            return {v: array[start : start + CHUNK_ROWS] for v, array in self.arrays.items()}

    class Rows(experimental.FlatMapTransform):
        """A record into rows."""

        max_fan_out = CHUNK_ROWS

        def flat_map(self, element: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
            """Views of it."""
            return [{v: chunk[i] for v, chunk in element.items()} for i in range(CHUNK_ROWS)]

    def opener() -> Epoch:
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=WINDOW_CHUNKS)
        chunks = grain.MapDataset.source(Chunks()).shuffle(seed=job.seed)
        rows = experimental.FlatMapIterDataset(chunks.to_iter_dataset(options), Rows())
        window_rows = WINDOW_CHUNKS * CHUNK_ROWS
        shuffled = experimental.WindowShuffleIterDataset(
            rows, window_size=window_rows, seed=job.seed
        )
        batches = shuffled.batch(BATCH_ROWS, drop_remainder=True)

        def epoch() -> Iterator[Piece]:
            for batch in batches:
                yield Piece(batch)

        return epoch

    return opener


def xbatcher(job: Job) -> Opener:
    """Contiguous batches: it has no shuffle."""
    import xarray as xr
    import zarr  # noqa: F401  xarray would when it opens
    from xbatcher import BatchGenerator

    def opener() -> Epoch:
        data = xr.open_zarr(job.place, consolidated=False, chunks=None)
        dims = {**{name: int(size) for name, size in data.sizes.items()}, "row": BATCH_ROWS}

        def epoch() -> Iterator[Piece]:
            for batch in BatchGenerator(data, input_dims=dims):
                yield Piece({v: batch[v].values for v in INNER})

        return epoch

    return opener


CONTENDERS = {
    "insitubatch": insitubatch,
    "annbatch": annbatch,
    "grain": grain,
    "xbatcher (unshuffled)": xbatcher,
}
