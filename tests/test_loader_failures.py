"""What goes wrong while batches are made: the right error, soon, and the next epoch is whole."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import zarr
from stored_rows import CountingSource, numbered

import jaxstore as js

N_ROWS = 300


def no_threads_are_left():
    ours = ("jaxstore-read", "jaxstore-prefetch")
    return not [t for t in threading.enumerate() if t.name.startswith(ours)]


@pytest.fixture
def store(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, shape in (("x", (3,)), ("y", ())):
        array = group.create_array(name, shape=(N_ROWS, *shape), chunks=(16, *shape), dtype="f4")
        array[:] = numbered(N_ROWS, shape)
    return tmp_path / "a.zarr"


def rows_of(loader):
    return sorted(row for batch in loader for row in batch.rows[np.asarray(batch.mask)].tolist())


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), js.FormatError("chunk")])
def test_a_read_that_fails_ends_the_epoch_with_its_error(error, prefetch):
    source = CountingSource("x", numbered(N_ROWS), 16, fails_at=7, error=error)
    loader = js.Loader({"x": source}, batch_size=20, window_chunks=2, prefetch=prefetch)
    with pytest.raises(type(error)) as caught:
        list(loader)
    assert caught.value is error
    assert no_threads_are_left()
    source.fails_at = None
    assert rows_of(loader) == list(range(N_ROWS))


def test_batches_before_a_damaged_chunk_come_and_it_is_named(store):
    chunk = store / "x" / "c" / "18" / "0"
    chunk.write_bytes(chunk.read_bytes()[:5])
    loader = js.Loader(store, batch_size=20, window_chunks=2, shuffle=False)
    given = []
    with pytest.raises(js.FormatError, match=r"'x' in .*a\.zarr: chunk \(18, 0\)"):
        given.extend(iter(loader))
    assert len(given) == 14
    assert no_threads_are_left()


def test_a_chunk_that_is_not_there_is_fill_values_or_an_error(store):
    (store / "x" / "c" / "3" / "0").unlink()
    loader = js.Loader(store, batch_size=20, shuffle=False, to="numpy")
    assert not np.concatenate([b["x"] for b in loader])[48:64].any()
    strict = js.Loader(store, batch_size=20, shuffle=False, strict=True)
    with pytest.raises(js.FormatError, match=r"'x' in .*a\.zarr: chunk \(3, 0\) is absent"):
        list(strict)


def test_a_transform_that_raises_tells_where():
    source = CountingSource("x", numbered(N_ROWS), 16)

    def fragile(rows):
        if rows[0, 0] == 16_000 * 5:
            raise ZeroDivisionError("no")
        return rows

    loader = js.Loader({"x": source}, js.Variable("x", transform=fragile), batch_size=20)
    with pytest.raises(ZeroDivisionError) as caught:
        list(loader)
    assert caught.value.__notes__ == ["in the transform of 'x' in memory, chunk 5"]
    assert no_threads_are_left()


def test_a_batch_transform_that_raises_tells_where():
    def fragile(arrays, seeds):
        raise KeyError("label")

    source = CountingSource("x", numbered(N_ROWS), 16)
    loader = js.Loader({"x": source}, batch_size=20, batch_transform=fragile)
    with pytest.raises(KeyError) as caught:
        list(loader)
    assert caught.value.__notes__ == ["in batch_transform, batch 0 of epoch 0"]


def test_an_epoch_beside_a_process_that_takes_the_cpu_is_whole(store):
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        loader = js.Loader(store, ["x"], batch_size=20, window_chunks=2)
        for _ in range(3):
            assert rows_of(loader) == list(range(N_ROWS))
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_no_file_stays_open(store):
    from pathlib import Path

    fds = Path("/proc/self/fd")
    list(js.Loader(store, ["x"], batch_size=20))
    before = len(list(fds.iterdir()))
    for _ in range(3):
        with js.Loader(store, batch_size=20) as loader:
            for _ in loader:
                break
            list(loader)
    assert len(list(fds.iterdir())) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number >= 1, got 2.0"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"window_chunks": 0}, "window_chunks must be"),
        ({"remainder": "keep"}, r"remainder is 'keep'. Choose one of \('drop', 'pad', 'carry'\)"),
        ({"prefetch": -1}, "prefetch must be"),
        ({"max_inflight": 0}, "max_inflight must be"),
        ({"memory": "much"}, "memory is 'much'. Give bytes"),
        ({"to": "torch"}, "to is 'torch'"),
        ({"shuffle_on": "gpu"}, "shuffle_on is 'gpu'"),
        ({"to": "numpy", "shuffle_on": "device"}, "shuffle_on='device' keeps the windows"),
        ({"process_index": 1}, "process_index and process_count go together"),
        ({"process_index": 2, "process_count": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"split": "dev"}, "dev"),
        ({"variables": []}, "at least one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    source = CountingSource("x", numbered(N_ROWS), 16)
    with pytest.raises(ValueError, match=message):
        js.Loader({"x": source}, **{"batch_size": 20, **settings})
    assert source.chunks == []


def test_arrays_of_unequal_length_are_refused_or_cut():
    source = {
        "x": CountingSource("x", numbered(300), 16),
        "y": CountingSource("y", numbered(200), 16),
    }
    with pytest.raises(js.MismatchError, match=r"'x' 300, 'y' 200\. .* n_rows=200"):
        js.Loader(source, batch_size=20)
    assert source["y"].is_closed
    assert rows_of(js.Loader(source, batch_size=20, n_rows=150)) == list(range(150))
    with pytest.raises(js.MismatchError, match="n_rows is 201"):
        js.Loader(source, batch_size=20, n_rows=201)


def test_a_manifest_of_another_array_is_refused():
    source = CountingSource("x", numbered(N_ROWS), 16)
    other = js.split_by_chunk(js.ArrayGeometry("x", (400,), (16,), np.dtype("f4")))
    with pytest.raises(js.MismatchError, match="splits 400 rows, 'x' has 300"):
        js.Loader({"x": source}, batch_size=20, split="train", manifest=other)
    with pytest.raises(ValueError, match="no split of it"):
        js.Loader({"x": source}, batch_size=20, manifest=js.split_by_chunk(source.geometry))


def test_an_epoch_of_nothing_is_refused():
    source = CountingSource("x", numbered(N_ROWS), 16)
    with pytest.raises(js.MismatchError, match="fewer than one batch of 400"):
        js.Loader({"x": source}, batch_size=400, remainder="drop")
    with pytest.raises(js.MismatchError, match="no row of this split"):
        js.Loader({"x": source}, js.Variable("x", shift=301), batch_size=4)


def test_too_little_memory_is_refused_before_anything_is_read():
    source = CountingSource("x", numbered(N_ROWS, (1000,)), 16)
    least = js.Loader({"x": source}, batch_size=20, window_chunks=4).describe().memory_bytes
    with pytest.raises(js.TooLargeError, match=r"2 windows of 8 chunks .* window_chunks=4, or"):
        js.Loader({"x": source}, batch_size=20, window_chunks=8, memory=least)
    js.Loader({"x": source}, batch_size=20, window_chunks=4, memory=least)
    assert source.chunks == []


def test_what_jax_would_truncate_is_refused():
    source = {"x": CountingSource("x", np.arange(30) + 2**40, 16)}
    with pytest.raises(js.MismatchError, match=r"'x' is int64, and JAX would make int32"):
        js.Loader(source, batch_size=4)
    assert js.Loader(source, js.Variable("x", dtype="float32"), batch_size=4)
    batch = next(iter(js.Loader(source, batch_size=30, to="numpy")))
    assert batch["x"].min() == 2**40


def test_what_a_batch_transform_makes_too():
    source = {"x": CountingSource("x", numbered(30), 16)}
    loader = js.Loader(source, batch_size=4, batch_transform=lambda a, _: {"x": a["x"] * 1.0e0})
    next(iter(loader))
    wide = js.Loader(source, batch_size=4, batch_transform=lambda a, s: {"s": s})
    with pytest.raises(js.MismatchError, match=r"'s' is uint64"):
        next(iter(wide))
