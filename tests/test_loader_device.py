"""Batches on devices: where they lie, which memory they share, and that it is not written again."""

from __future__ import annotations

import gc

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from stored_rows import CountingSource, numbered

import jaxstore as js
from jaxstore.loading.buffers import Buffers, Spec

N_ROWS = 200


@pytest.fixture
def source():
    return {
        "x": CountingSource("x", numbered(N_ROWS, (8, 4)), 16),
        "y": CountingSource("y", numbered(N_ROWS, ()), 16),
    }


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))


def same(batches, others):
    for a, b in zip(batches, others, strict=True):
        assert np.array_equal(a.rows, b.rows)
        assert np.array_equal(a.mask, b.mask)
        for label in ("x", "y"):
            assert np.array_equal(a[label], b[label])


def test_batches_go_to_the_default_device_uncommitted(source):
    batch = next(iter(js.Loader(source, batch_size=20)))
    assert batch["x"].devices() == {jax.devices()[0]}
    assert not batch["x"].committed


def test_batches_go_to_the_device_that_is_given(source):
    device = jax.devices()[2]
    loader = js.Loader(source, batch_size=20, device=device)
    assert next(iter(loader))["x"].devices() == {device}
    same(loader, [*js.Loader(source, batch_size=20).iterate(1)])


@pytest.mark.parametrize("spec", [P("data"), P(("data", "model")), P("data", "model"), P()])
def test_batches_go_to_any_sharding(source, mesh, spec):
    sharding = NamedSharding(mesh, spec)
    loader = js.Loader(source, batch_size=20, sharding=sharding)
    plain = js.Loader(source, batch_size=20, to="numpy")
    for _ in range(2):
        batches = list(loader)
        assert all(b["x"].sharding == sharding for b in batches)
        same(batches, list(plain))


def test_a_batch_that_a_sharding_does_not_divide_is_refused_at_once(source, mesh):
    sharding = NamedSharding(mesh, P(("data", "model")))
    with pytest.raises(js.MismatchError, match=r"a batch of 30 rows .* devices divide"):
        js.Loader(source, batch_size=30, sharding=sharding)
    assert source["x"].is_closed


def test_the_memory_of_a_batch_is_used_again_and_only_when_nobody_has_it(source):
    loader = js.Loader(source, batch_size=20, to="numpy", prefetch=0)
    places = set()
    for batch in loader:
        places.add(batch["x"].ctypes.data)
        assert batch["x"].ctypes.data % 64 == 0
        del batch
    assert len(places) == 1
    loader = js.Loader(source, batch_size=20, to="numpy", prefetch=0)
    kept = [batch["x"][3:5] for batch in loader]
    assert len({view.ctypes.data for view in kept}) == 10


@pytest.mark.parametrize("hold", [lambda a: a[1:], jax.device_put, jax.numpy.from_dlpack])
def test_whatever_refers_to_a_buffer_keeps_it(hold):
    buffers = Buffers({"x": Spec((16, 4), np.dtype("f4"))})
    first = buffers.take()
    first["x"][...] = 1
    place = first["x"].ctypes.data
    holder = hold(first["x"])
    del first
    second = buffers.take()
    assert second["x"].ctypes.data != place
    second["x"][...] = 2
    assert (np.asarray(holder) == 1).all()
    del holder
    gc.collect()
    assert buffers.take()["x"].ctypes.data == place


def test_a_batch_of_jax_shares_the_memory_it_was_gathered_in(source):
    """On the CPU there is nothing to copy; that this is safe is what the tests above say."""
    loader = js.Loader(source, batch_size=20)
    batch = next(iter(loader))
    assert batch["x"].unsafe_buffer_pointer() % 64 == 0
    assert np.shares_memory(np.from_dlpack(batch["x"]), np.from_dlpack(batch["x"]))


def test_batches_go_on_by_dlpack_without_a_copy(source):
    batch = next(iter(js.Loader(source, batch_size=20)))
    seen = np.from_dlpack(batch["x"])
    assert seen.ctypes.data == batch["x"].unsafe_buffer_pointer()
    host = next(iter(js.Loader(source, batch_size=20, to="numpy")))
    assert np.array_equal(jax.numpy.from_dlpack(host["x"]), seen)


@pytest.mark.parametrize("remainder", ["drop", "pad", "carry"])
def test_rows_gathered_on_the_device_are_the_same(source, remainder):
    settings = {"batch_size": 24, "window_chunks": 3, "remainder": remainder}
    variables = {"x": "x", "y": js.Variable("y", shift=-2, window=3)}
    there = js.Loader(source, variables, shuffle_on="device", **settings)
    here = js.Loader(source, variables, **settings)
    for _ in range(3):
        same(list(there), list(here))


def test_each_chunk_goes_to_the_device_once(source, monkeypatch):
    from jaxstore.loading import gather_device

    sent = []
    original = gather_device.jax.device_put

    def counting(value, device=None):
        if getattr(value, "shape", ())[1:] == (8, 4):
            sent.append(value.shape)
        return original(value, device)

    loader = js.Loader(source, ["x"], batch_size=24, window_chunks=3, shuffle_on="device")
    monkeypatch.setattr(gather_device.jax, "device_put", counting)
    n = len(list(loader))
    assert n == 9
    assert sent.count((16, 8, 4)) == 13


def test_a_batch_that_reaches_over_many_windows_is_gathered_on_the_device(source):
    settings = {"batch_size": 150, "window_chunks": 1}
    there = js.Loader(source, shuffle_on="device", **settings)
    same(list(there), list(js.Loader(source, **settings)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_each_process_reads_its_part_and_all_together_are_the_batch(size):
    def make(rank, size):
        source = {"x": CountingSource("x", numbered(N_ROWS), 4)}
        loader = js.Loader(
            source, batch_size=30, window_chunks=16, to="numpy",
            process_index=rank, process_count=size,
        )  # fmt: skip
        return source["x"], loader

    _, alone = make(0, 1)
    ranks = [make(rank, size) for rank in range(size)]
    for _ in range(2):
        whole = list(alone)
        parts = [list(loader) for _, loader in ranks]
        for batch, *others in zip(whole, *parts, strict=True):
            for label in ("x",):
                joined = np.concatenate([b[label] for b in others])
                assert np.array_equal(joined, batch[label])
            assert np.array_equal(np.concatenate([b.mask for b in others]), batch.mask)
            assert np.array_equal(np.concatenate([b.rows for b in others]), batch.rows)
    reads = [len(source.chunks) for source, _ in ranks]
    # A share of the chunks each; borders move with the draw of each batch.
    assert sum(reads) < 2 * 50 * (1 + 0.6 * (size - 1))
    if size > 1:
        assert max(reads) < 2 * 50
