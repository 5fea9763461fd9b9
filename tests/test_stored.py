"""What a run reads was written: chunks that are absent are told, and chains end where they end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js
from jaxstore.saving.layout import LeafLayout
from jaxstore.saving.stored import StoredArray
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.zarr3 import ZarrStore

N_DRAWS = 24


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for collector in (
        js.ZarrCollector(folder / "a.zarr", chunk_draws=4),
        js.HDF5Collector(folder / "a.h5", chunk_draws=4),
    ):
        js.scan(step, jnp.zeros((2, 3)), length=N_DRAWS, chains=2, collector=collector)
    return folder


def step(x: Any, _: Any) -> Any:
    return x + 1, {"x": x, "half": x[:, 0].astype("bfloat16")}


def exact(run: js.Run) -> None:
    """Read everything; what is read is right."""
    wanted = np.broadcast_to(np.arange(N_DRAWS, dtype="float32")[None, :, None], (2, N_DRAWS, 3))
    assert run.state == "complete"
    assert run.sample_count.tolist() == [N_DRAWS] * 2
    assert np.asarray(run.samples["x"]).tobytes() == wanted.tobytes()
    assert np.array_equal(np.asarray(run.samples["half"]), wanted[:, :, 0].astype("bfloat16"))
    assert run.samples["half"].dtype == "bfloat16"
    assert run.iteration.tolist() == [list(range(N_DRAWS))] * 2


def test_a_flipped_bit_in_any_document_of_a_run_gives_an_error_or_the_exact_values(
    finished: Path,
) -> None:
    folder, rng, n_noticed = finished / "a.zarr", np.random.default_rng(0), 0
    with js.open_run(folder) as run:
        exact(run)
    documents = sorted(folder.rglob("zarr.json"))
    assert len(documents) > 4
    for path in documents:
        sound = path.read_bytes()
        flips = rng.integers(0, len(sound) * 8, 50)
        cuts = rng.integers(0, len(sound), 5)
        for damaged in (*(flipped(sound, bit) for bit in flips), *(sound[:n] for n in cuts)):
            path.write_bytes(damaged)
            try:
                with js.open_run(folder) as run:
                    exact(run)
            except js.JaxstoreError:
                n_noticed += 1
        path.write_bytes(sound)
    assert n_noticed >= 40 * len(documents)


def test_a_chunk_of_a_zarr_run_that_is_gone_is_no_fill_value(finished: Path) -> None:
    path = finished / "a.zarr"
    (chunk, *_) = sorted(path.glob("samples/x/c/0/3/*"))
    data = chunk.read_bytes()
    chunk.unlink()
    with (
        js.open_run(path) as run,
        pytest.raises(js.FormatError, match=r"samples/x.*chunk \(0, 3, 0\) is absent"),
    ):
        np.asarray(run.samples["x"])
    chunk.write_bytes(data)
    with js.open_run(path) as run:
        exact(run)


def test_a_run_that_tells_of_more_draws_than_its_array_has_is_no_run(finished: Path) -> None:
    with h5py.File(finished / "a.h5", "r+") as file:
        file["samples/x"].resize((2, N_DRAWS - 1, 3))
    with (
        js.open_run(finished / "a.h5") as run,
        pytest.raises(js.FormatError, match=r"samples/x.*the run tells of \(2, 24, 3\)"),
    ):
        np.asarray(run.samples["x"])


def test_chains_of_unequal_length_have_no_chunks_beyond_their_ends(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    values = np.arange(3 * 20, dtype="float32").reshape(3, 20)
    draws = (9, 20, 0)
    store.create(ArraySpec("x", (3, 20), (1, 4), values.dtype, ("chain", "draw")))
    for chain, n in enumerate(draws):
        store.write("x", (chain, 0), values[chain : chain + 1, :n])
    wanted = np.where(np.arange(20) < np.array(draws)[:, None], values, np.nan)
    leaf = LeafLayout(name="x", keys=("x",), shape=(), dtype=values.dtype, dims=(), key_impl=None)
    array = StoredArray(store, leaf, (0, 1, 2), draws)
    for index in (..., np.s_[:, 5:12], np.s_[1:, ::-1], np.s_[0], np.s_[2], np.s_[:, 19]):
        np.testing.assert_array_equal(array[index], wanted[index])
    np.testing.assert_array_equal(array.of_chains((2, 0))[...], wanted[[2, 0], :9])
    (tmp_path / "a/x/c/0/2").unlink()  # row 8 of chain 0, which it has
    np.testing.assert_array_equal(array[:, :8], wanted[:, :8])
    with pytest.raises(js.FormatError, match=r"chunk \(0, 2\) is absent"):
        array[...]


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
