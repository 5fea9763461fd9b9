"""Batches of a loader: which rows, in which shape, and what it costs to get them."""

from __future__ import annotations

import gc
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_rows import CountingSource, numbered

import jaxstore as js

N_ROWS = 1000


@pytest.fixture
def pair():
    """Two variables of one length, in chunks that do not fit one another."""
    return {
        "x": CountingSource("x", numbered(N_ROWS, (2, 3)), 64),
        "y": CountingSource("y", numbered(N_ROWS, (), "i4"), 24),
    }


def given_rows(batches):
    """Row numbers of batches, after a look at every value."""
    rows = []
    for batch in batches:
        mask = np.asarray(batch.mask)
        x, y = np.asarray(batch["x"]), np.asarray(batch["y"])
        assert np.array_equal(x[:, 0, 0], y.astype("f4"))
        assert np.array_equal(y[mask], batch.rows[mask] * 1000)
        assert (batch.rows[~mask] == -1).all()
        rows += batch.rows[mask].tolist()
    return rows


@pytest.mark.parametrize("to", ["numpy", "jax"])
@pytest.mark.parametrize("batch_size", [100, 64, 7, 700, 1000])
def test_every_epoch_is_a_permutation_and_pairs_stay_together(pair, to, batch_size):
    loader = js.Loader(pair, batch_size=batch_size, window_chunks=4, to=to)
    epochs = [given_rows(loader) for _ in range(3)]
    for rows in epochs:
        assert sorted(rows) == list(range(N_ROWS))
    assert epochs[0] != epochs[1] != epochs[2]


def test_rows_come_in_their_order_where_they_are_not_shuffled(pair):
    loader = js.Loader(pair, batch_size=100, window_chunks=4, shuffle=False)
    assert given_rows(loader) == list(range(N_ROWS))
    assert given_rows(loader) == list(range(N_ROWS))


def test_fewer_rows_than_a_chunk():
    x = numbered(10)
    loader = js.Loader({"x": CountingSource("x", x, 64)}, batch_size=4, to="numpy")
    found = np.concatenate([batch["x"][batch.mask] for batch in loader])
    assert np.array_equal(np.sort(found, axis=0), x)


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 90),
    chunks=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    batch_size=st.integers(1, 50),
    window_chunks=st.none() | st.integers(1, 5),
    remainder=st.sampled_from(["drop", "pad", "carry"]),
    prefetch=st.integers(0, 2),
    seed=st.integers(0, 2**40),
)
def test_any_geometry(n_rows, chunks, batch_size, window_chunks, remainder, prefetch, seed):
    source = {
        "x": CountingSource("x", numbered(n_rows, (1, 2)), chunks[0]),
        "y": CountingSource("y", numbered(n_rows, (), "i4"), chunks[1]),
    }
    if remainder == "drop" and n_rows < batch_size:
        batch_size = n_rows
    loader = js.Loader(
        source,
        batch_size=batch_size,
        window_chunks=window_chunks,
        remainder=remainder,
        prefetch=prefetch,
        seed=seed,
        to="numpy",
    )
    stream = []
    for _ in range(3):
        n_batches, rows = len(loader), []
        for batch in loader:
            assert batch["x"].shape == (batch_size, 1, 2)
            n_batches -= 1
            rows += given_rows([batch])
        assert n_batches == 0
        stream += rows
        if remainder == "pad":
            assert sorted(rows) == list(range(n_rows))
        if remainder == "drop":
            assert len(set(rows)) == len(rows) == n_rows - n_rows % batch_size
    if remainder == "carry":
        assert len(stream) == 3 * n_rows // batch_size * batch_size
        for start in range(0, len(stream) - n_rows + 1, n_rows):
            assert sorted(stream[start : start + n_rows]) == list(range(n_rows))


@pytest.mark.parametrize("remainder", ["drop", "pad", "carry"])
def test_a_jitted_step_is_compiled_once(pair, remainder):
    n_compiled = 0

    @jax.jit
    def step(total, batch):
        nonlocal n_compiled
        n_compiled += 1
        seen = jnp.where(batch.mask[:, None, None], batch["x"], 0).sum()
        return total + seen / batch.observation_count

    loader = js.Loader(pair, batch_size=300, window_chunks=2, remainder=remainder)
    total = jnp.zeros(())
    for _ in range(2):
        for batch in loader:
            total = step(total, batch)
    assert n_compiled == 1


def test_rows_that_are_dropped_come_within_two_epochs(pair):
    loader = js.Loader(pair, batch_size=300, window_chunks=4, remainder="drop", to="numpy")
    before = set(given_rows(loader))
    for _ in range(5):
        rows = set(given_rows(loader))
        assert len(rows) == 900
        assert len(rows | before) == N_ROWS
        before = rows


def test_each_chunk_is_read_once_per_epoch_and_never_too_many_at_a_time():
    source = CountingSource("x", numbered(N_ROWS), 64, pause_s=0.02)
    loader = js.Loader({"x": source}, batch_size=100, window_chunks=3, max_inflight=5)
    for _ in range(2):
        source.chunks.clear()
        for _ in loader:
            pass
        # What the epoch before left in memory needs no second read.
        assert len(source.chunks) == len(set(source.chunks)) <= 16
    assert source.most_inflight == 5


def test_what_fits_into_memory_is_read_once_for_all_epochs():
    source = CountingSource("x", numbered(N_ROWS), 64)
    loader = js.Loader({"x": source}, batch_size=100, window_chunks=3, memory="1MB")
    assert loader.describe().is_cached
    for _ in range(3):
        list(loader)
    assert len(source.chunks) == 16


def test_memory_in_part_spares_reads_in_proportion():
    """What is needed last makes room: a guess by last use would spare nothing unshuffled."""
    source = CountingSource("x", numbered(N_ROWS, dtype="f8"), 10)
    loader = js.Loader(
        {"x": source}, batch_size=10, window_chunks=2, shuffle=False, to="numpy",
        memory=10 * 3 * 8 * 50 + 3 * 240 + 4 * 240, max_inflight=4,
    )  # fmt: skip
    list(loader)
    source.chunks.clear()
    list(loader)
    assert 50 <= len(source.chunks) <= 56


def test_a_batch_that_is_kept_stays_as_it_is(pair):
    for to in ("numpy", "jax"):
        loader = js.Loader(pair, batch_size=50, window_chunks=2, to=to)
        kept = list(loader)
        given_rows(loader)
        assert sorted(given_rows(kept)) == list(range(N_ROWS))


def test_a_batch_that_is_overwritten_changes_nothing(pair):
    loader = js.Loader(pair, batch_size=50, window_chunks=2, to="numpy", memory="10MB")
    for _ in range(2):
        rows = []
        for batch in loader:
            rows += given_rows([batch])
            for array in batch.arrays.values():
                array[...] = -1
            batch.rows[:] = 0
            batch.mask[:] = False
        assert sorted(rows) == list(range(N_ROWS))


def test_a_slow_asynchronous_step_sees_its_own_batch(pair):
    @jax.jit
    def slow(total, x):
        return jax.lax.fori_loop(0, 300, lambda _, t: t + x.sum() * 0, total) + x[:, 0, 0].sum()

    loader = js.Loader(pair, batch_size=50, window_chunks=2)
    totals, total = [], jnp.zeros((200, 200))
    for batch in loader:
        total = slow(total, batch["x"])
        del batch
        totals.append(total)
    assert float(totals[-1][0, 0]) == pytest.approx(1000 * N_ROWS * (N_ROWS - 1) / 2, rel=1e-6)


def test_an_early_break_leaves_no_thread_and_the_next_epoch_is_whole(pair):
    loader = js.Loader(pair, batch_size=10, window_chunks=2)
    for i, _ in enumerate(loader):
        if i == 3:
            break
    gc.collect()
    ours = ("jaxstore-read", "jaxstore-prefetch")
    assert not [t for t in threading.enumerate() if t.name.startswith(ours)]
    assert loader.state()["epoch"] == 0
    assert loader.state()["batch"] == 4
    assert sorted(given_rows(loader)) == list(range(N_ROWS))
    assert loader.state()["epoch"] == 2


def test_two_loops_at_once_have_an_epoch_each(pair):
    loader = js.Loader(pair, batch_size=100, window_chunks=2)
    first, second = [], []
    for a, b in zip(loader, loader, strict=True):
        first.append(a)
        second.append(b)
    assert {b.epoch for b in first} == {0}
    assert {b.epoch for b in second} == {1}
    assert sorted(given_rows(first)) == sorted(given_rows(second)) == list(range(N_ROWS))


def test_an_epoch_tells_what_it_cost(pair):
    loader = js.Loader(pair, batch_size=100, window_chunks=2)
    assert loader.last_epoch is None
    list(loader)
    told = loader.last_epoch
    assert (told.epoch, told.batches) == (0, 10)
    assert told.stored_chunks == len(pair["x"].chunks) + len(pair["y"].chunks)
    assert told.limiting_stage in str(told)


def test_a_reader_that_is_slow_is_named():
    source = CountingSource("x", numbered(200), 10, pause_s=0.01)
    loader = js.Loader({"x": source}, batch_size=20, window_chunks=2, max_inflight=1)
    list(loader)
    assert loader.last_epoch.limiting_stage == "read"


def test_a_closed_loader_says_so(pair):
    with js.Loader(pair, batch_size=100) as loader:
        pass
    assert pair["x"].is_closed
    with pytest.raises(js.BusyError, match="closed"):
        iter(loader)


def test_a_loader_describes_itself(pair):
    loader = js.Loader(pair, batch_size=100, window_chunks=4)
    told = loader.describe()
    assert (told.rows, told.batches, told.windows) == (1000, 10, 4)
    assert told.distinct_chunks == 16 + 42
    for text in (repr(loader), loader._repr_html_()):
        assert "1,000" in text
        assert "10 of 100 rows" in text
    source = CountingSource("x", numbered(N_ROWS), 64)
    told = js.Loader({"x": source}, batch_size=100).describe()
    assert told.reads_per_chunk == 1
    assert told.stored_chunks == 16


def test_a_loader_is_not_pickled(pair):
    with pytest.raises(TypeError, match="Send its source and settings"):
        pickle.dumps(js.Loader(pair, batch_size=100))


def test_any_epoch_can_be_looked_at_and_the_position_stays(pair):
    loader = js.Loader(pair, batch_size=100, to="numpy")
    third = [batch.rows for batch in loader.iterate(2, 4)]
    assert len(third) == 6
    assert (loader.epoch, loader.state()["batch"]) == (0, 0)
    list(loader)
    list(loader)
    assert loader.epoch == 2
    assert all(np.array_equal(a, b.rows) for a, b in zip(third, list(loader)[4:], strict=True))
    with pytest.raises(ValueError, match="epoch must be a whole number >= 0"):
        loader.iterate(-1)


def test_a_batch_of_anything_shows_itself(pair):
    batch = next(iter(js.Loader(pair, batch_size=100)))
    assert repr(batch) == "<Batch 0 of epoch 0 x: (100, 2, 3) float32, y: (100,) int32>"
    assert "y: (100,)>" in repr(jax.tree.map(jnp.shape, batch))
