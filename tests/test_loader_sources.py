"""The same batches, wherever the rows lie."""

from __future__ import annotations

import asyncio

import h5py
import hdf5plugin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from stored_rows import numbered

import jaxstore as js

N_ROWS = 230
SHAPES = {"x": (4, 6), "y": ()}
ORDER = {"batch_size": 30, "window_chunks": 3, "to": "numpy"}


def zarr_copy(path, **settings):
    group = zarr.open_group(path, mode="w", zarr_format=settings.pop("zarr_format", 3))
    for name, shape in SHAPES.items():
        sharded = {k: (v, *shape) for k, v in settings.items() if k == "shards"}
        plain = {k: v for k, v in settings.items() if k not in ("shards", "rows")}
        chunks = (settings.get("rows", 16), *shape)
        array = group.create_array(
            name, shape=(N_ROWS, *shape), chunks=chunks, dtype="f4", **plain, **sharded
        )
        array[:] = numbered(N_ROWS, shape)
    return path


def hdf5_copy(path, **settings):
    with h5py.File(path, "w") as file:
        for name, shape in SHAPES.items():
            file.create_dataset(name, data=numbered(N_ROWS, shape), chunks=(16, *shape), **settings)
    return path


COPIES = {
    "zarr raw": lambda p: zarr_copy(p / "a.zarr", compressors=None),
    "zarr zstd": lambda p: zarr_copy(p / "a.zarr"),
    "zarr v2": lambda p: zarr_copy(p / "a.zarr", zarr_format=2),
    "zarr sharded": lambda p: zarr_copy(p / "a.zarr", shards=16, rows=4),
    "hdf5 raw": lambda p: hdf5_copy(p / "a.h5"),
    "hdf5 gzip": lambda p: hdf5_copy(p / "a.h5", compression="gzip", shuffle=True),
    "hdf5 lzf": lambda p: hdf5_copy(p / "a.h5", compression="lzf"),
    "hdf5 zstd": lambda p: hdf5_copy(p / "a.h5", **hdf5plugin.Zstd()),
    "zarr group": lambda p: zarr.open_group(zarr_copy(p / "a.zarr"), mode="r"),
    "hdf5 file": lambda p: h5py.File(hdf5_copy(p / "a.h5"), "r"),
    "mapping": lambda p: {
        "x": f"{zarr_copy(p / 'a.zarr')}:/x",
        "y": f"{hdf5_copy(p / 'a.h5')}:/y",
    },
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    loader = js.Loader(zarr_copy(tmp_path_factory.mktemp("expected") / "a.zarr"), **ORDER)
    return loader.state(), [batch for _ in range(2) for batch in loader]


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_a_data_set_give_the_same_batches_and_take_its_state(tmp_path, expected, copy):
    place = COPIES[copy](tmp_path)
    state, batches = expected
    with js.Loader(place, **ORDER) as loader:
        loader.restore(state)
        assert loader.state() == state
        found = [batch for _ in range(2) for batch in loader]
    for mine, theirs in zip(found, batches, strict=True):
        assert np.array_equal(mine.rows, theirs.rows)
        assert all(np.array_equal(mine[name], theirs[name]) for name in SHAPES)
    if isinstance(place, h5py.File):
        assert place.id.valid
        place.close()


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_draws_of_a_run_are_rows_also_while_it_is_written(tmp_path, kind):
    make = {"zarr": js.ZarrCollector, "hdf5": js.HDF5Collector}[kind]
    path = tmp_path / f"run.{'h5' if kind == 'hdf5' else 'zarr'}"
    with make(path, chunk_draws=16) as collector:
        init_save, save, postprocess_save = js.save(collector, buffer_draws=16)

        @jax.jit
        @jax.vmap
        def walk(state, x):
            def step(carry, _):
                state, x = carry
                state, _ = save(state, True, {"theta": x})
                return (state, x + 1), None

            return jax.lax.scan(step, (state, x), length=80)[0]

        x = jnp.zeros((2, 3))
        state = jax.vmap(lambda x: init_save({"theta": x}))(x)
        for n_rows in (80, 160):
            state, x = walk(state, x)
            jax.block_until_ready(x)
            collector.flush()
            loader = js.Loader(path, batch_size=30, window_chunks=2, to="numpy")
            assert draws_in(loader) == list(range(n_rows))
        postprocess_save(state)
    assert draws_in(js.Loader(path, batch_size=30, window_chunks=2)) == list(range(160))


def draws_in(loader):
    """Rows of an epoch, after a look at the value that each of them must have."""
    seen = []
    for batch in loader:
        mask = np.asarray(batch.mask)
        draws = np.asarray(next(iter(batch.arrays.values())))
        assert draws.shape == (30, 2, 3)
        assert (draws[mask] == batch.rows[mask][:, None, None]).all()
        seen += batch.rows[mask].tolist()
    return sorted(seen)


class CountingStore(zarr.storage.WrapperStore):
    """Notes which chunks are asked for, and how many of them at a time."""

    def __init__(self, store):
        super().__init__(store)
        self.chunks = []
        self.most_at_once = self.at_once = 0

    async def get(self, key, prototype, byte_range=None):
        if "/c/" not in key:
            return await super().get(key, prototype, byte_range)
        self.chunks.append(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.005)  # so that requests meet
            return await super().get(key, prototype, byte_range)
        finally:
            self.at_once -= 1


@pytest.mark.parametrize("sharding", [{}, {"shards": 16, "rows": 4}])
@pytest.mark.parametrize("max_inflight", [1, 5])
def test_each_chunk_or_shard_is_fetched_once_per_epoch(sharding, max_inflight):
    store = CountingStore(zarr.storage.MemoryStore())
    zarr_copy(store, **sharding)
    store.most_at_once = 0
    # What is left in memory at the end of an epoch need not be fetched in the next one.
    for epoch in (0, 1):
        store.chunks.clear()
        fresh = js.Loader(store, max_inflight=max_inflight, **ORDER)
        list(fresh.iterate(epoch))
        assert sorted(store.chunks) == sorted(
            [f"x/c/{i}/0/0" for i in range(15)] + [f"y/c/{i}" for i in range(15)]
        )
    assert store.most_at_once == max_inflight
