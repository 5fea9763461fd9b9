"""What a batch shows of its rows: lags, windows, casts and transforms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stored_rows import CountingSource, numbered

import jaxstore as js

N_ROWS = 300


@pytest.fixture
def x():
    return CountingSource("x", numbered(N_ROWS), 16)


@pytest.mark.parametrize("shift", [0, 3, -20, 150])
@pytest.mark.parametrize("window", [1, 4])
def test_a_lagged_view_shows_the_rows_it_says(x, shift, window):
    loader = js.Loader(
        {"x": x},
        {"now": "x", "then": js.Variable("x", shift=shift, window=window)},
        batch_size=32,
        window_chunks=3,
        to="numpy",
    )
    seen = []
    for batch in loader:
        for row, now, then in zip(batch.rows, batch["now"], batch["then"], strict=True):
            if row < 0:
                continue
            seen.append(row)
            assert np.array_equal(now, x.values[row])
            wanted = x.values[row + shift : row + shift + window]
            assert np.array_equal(then, wanted if window > 1 else wanted[0])
    first, stop = max(0, -shift), min(N_ROWS, N_ROWS - shift - window + 1)
    assert sorted(seen) == list(range(first, stop))
    assert loader.describe().rows_left_out == N_ROWS - len(seen)


def test_views_of_one_array_share_its_chunks(x):
    loader = js.Loader(
        {"x": x},
        {"a": "x", "b": js.Variable("x", shift=1), "c": js.Variable("x", window=2)},
        batch_size=50,
        window_chunks=None,
    )
    list(loader)
    assert sorted(x.chunks) == list(range(19))


def test_a_view_never_shows_rows_of_another_split(x):
    source = {"x": x}
    manifest = js.split_by_chunk(x.geometry, fractions=(0.5, 0.25, 0.25), contiguous=False)
    for split in js.SplitName:
        rows = set(manifest.sample_indices(split).tolist())
        loader = js.Loader(
            source, {"x": js.Variable("x", shift=-1, window=3)}, batch_size=8,
            split=split, manifest=manifest, to="numpy",
        )  # fmt: skip
        shown = {int(v) // 1000 for b in loader for v in b["x"][..., 0].reshape(-1)}
        assert shown <= rows


def test_values_are_cast_where_that_is_asked_for(x):
    loader = js.Loader({"x": x}, js.Variable("x", dtype="int32"), batch_size=10)
    assert next(iter(loader))["x"].dtype == jnp.int32


def test_a_transform_of_chunks_is_called_once_per_chunk_and_kept(x):
    calls = []

    def mean(rows):
        if len(rows) > 1:  # not the try on zeros
            calls.append(len(rows))
        return rows.mean(axis=1)

    loader = js.Loader(
        {"x": x}, {"m": js.Variable("x", transform=mean)}, batch_size=50, memory="1MB", to="numpy"
    )
    for _ in range(2):
        for batch in loader:
            real = batch.rows[batch.mask]
            assert np.array_equal(batch["m"][batch.mask], x.values[real].mean(axis=1))
    assert sorted(calls) == [12] + [16] * 18


def test_a_transform_that_zeros_do_not_suit_says_what_it_makes(x):
    def inverse(rows):
        if not rows.any():
            raise ZeroDivisionError("no")
        return 1 / rows[:, 1:]

    with pytest.raises(js.MismatchError, match=r"'x' in memory failed .* output=jax.Shape"):
        js.Loader({"x": x}, js.Variable("x", transform=inverse), batch_size=10)
    output = jax.ShapeDtypeStruct((2,), np.float32)
    variable = js.Variable("x", transform=inverse, output=output)
    assert next(iter(js.Loader({"x": x}, variable, batch_size=10)))["x"].shape == (10, 2)


def test_a_transform_that_makes_other_rows_is_refused(x):
    variable = js.Variable("x", transform=lambda rows: rows[:1])
    loader = js.Loader({"x": x}, variable, batch_size=10)
    with pytest.raises(js.MismatchError, match=r"'x' in memory made \(1, 3\) of 16 rows"):
        next(iter(loader))


def jitter(arrays, seeds):
    noise = [np.random.default_rng(seed).normal(size=3) for seed in seeds.tolist()]
    return {**arrays, "noise": np.stack(noise).astype("f4")}


def noise_of_rows(loader):
    return {
        (batch.epoch, row): value.tobytes()
        for batch in loader
        for row, value in zip(batch.rows.tolist(), np.asarray(batch["noise"]), strict=True)
    }


def test_randomness_of_a_row_depends_on_seed_epoch_and_row_alone(x):
    loaders = [
        js.Loader({"x": x}, batch_size=b, window_chunks=w, batch_transform=jitter, to="numpy")
        for b, w in ((50, 2), (30, 5))
    ]
    first, second = [noise_of_rows(loader) for loader in loaders]
    assert first == second
    assert len(set(first.values())) == N_ROWS
    assert not set(noise_of_rows(loaders[0]).values()) & set(first.values())


def test_a_transform_on_the_device_is_compiled_once_and_has_keys(x):
    n_compiled = 0

    def add_noise(arrays, keys):
        nonlocal n_compiled
        n_compiled += 1
        # Not `normal`: its last bit depends on how XLA compiles the shape of a batch.
        noise = jax.vmap(lambda key: jax.random.bits(key, (3,)))(keys)
        return {**arrays, "noise": noise}

    loaders = [
        js.Loader({"x": x}, batch_size=b, window_chunks=w, device_transform=add_noise)
        for b, w in ((50, 2), (30, 5))
    ]
    first, second = [noise_of_rows(loader) for loader in loaders]
    assert n_compiled == 2
    assert first == second
    assert len(set(first.values())) == N_ROWS


def test_a_batch_transform_that_loses_rows_is_refused(x):
    loader = js.Loader({"x": x}, batch_size=10, batch_transform=lambda a, _: {"x": a["x"][:3]})
    with pytest.raises(js.MismatchError, match=r"'x' of shape \(3, 3\), expected 10 rows"):
        next(iter(loader))
