"""xarray, dask and ArviZ on runs, also while they go on, written as their users would write it."""

import threading

import arviz
import dask.array
import h5py
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import xarray
from collecting import same

import jaxstore as js

CHAINS, DRAWS, PER_CHUNK = 4, 1000, 100
Y = np.random.default_rng(0).normal(1.0, 1.0, 20).astype("float32")
FILES = {
    "run.zarr": (js.ZarrCollector, "zarr"),
    "run.h5": (js.HDF5Collector, "h5netcdf"),
}


def step(mu, key):
    """An exact draw of each chain's mean of `Y`, whose deviation is 1."""
    mu = Y.mean() + jax.random.normal(key, mu.shape) / len(Y) ** 0.5
    log_likelihood = -0.5 * (Y - mu[:, None]) ** 2 - 0.5 * jnp.log(2 * jnp.pi)
    return mu, {
        "posterior": {"mu": mu},
        "sample_stats": {"lp": log_likelihood.sum(1)},
        "log_likelihood": {"y": log_likelihood},
    }


def sample(path, step=step, **how):
    make, _ = FILES[path.name]
    collector = make(
        path, group=None, chunk_draws=PER_CHUNK, dims={"log_likelihood/y": ["patient"]},
        coords={"patient": np.arange(len(Y))},
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(1), DRAWS)
    with collector:
        js.scan(step, jnp.zeros(CHAINS), keys, chains=CHAINS, collector=collector, **how)


@pytest.fixture(params=FILES)
def live(request, tmp_path):
    """Path of a run that another thread writes, held up after 500 of its draws."""
    may_go_on, is_half = threading.Event(), threading.Event()

    def hold(key_data):
        if not may_go_on.is_set() and same(key_data, half):
            is_half.set()
            assert may_go_on.wait(120)

    def held_step(mu, key):
        jax.debug.callback(hold, jax.random.key_data(key))
        return step(mu, key)

    half = jax.random.key_data(jax.random.split(jax.random.key(1), DRAWS)[600])
    path = tmp_path / request.param
    how = {"step": held_step, "checkpoint_every": 100, "buffer_draws": PER_CHUNK}
    writer = threading.Thread(target=sample, args=(path,), kwargs=how)
    writer.start()
    try:
        assert is_half.wait(120)
        yield path
    finally:
        may_go_on.set()
        writer.join()


def test_summaries_and_plots_of_a_run_that_goes_on(live):
    """`to_datatree` has what is committed by now, and knows when to look again."""
    with js.open_run(live) as run:
        for news in run.follow(poll_s=0.01):
            if news.sample_count.min() >= 400:
                break
        run = run.refresh()
        assert run.state == "running"
        tree = run.to_datatree()
        n = int(run.sample_count[0])
        assert 400 <= n < DRAWS
        assert dict(tree["posterior"].sizes) == {"chain": CHAINS, "draw": n}

        summary = arviz.summary(tree, round_to="none")
        assert summary.index.tolist() == ["mu"]
        assert abs(summary["mean"]["mu"] - Y.mean()) < 0.1
        assert summary["r_hat"]["mu"] < 1.02
        assert float(arviz.ess(tree)["mu"]) > n
        assert 0.5 < arviz.loo(tree).p < 1.5  # the model has one parameter

        with mpl.rc_context({"backend": "agg"}):
            shown = arviz.plot_dist(tree, backend="matplotlib")
            assert "mu" in shown.viz["dist"]
            mpl.pyplot.close("all")

        if live.suffix == ".zarr":  # HDF5 itself lets nobody read a file that is written
            with xarray.open_datatree(live, engine="zarr", consolidated=False) as plain:
                mu = plain["posterior/mu"].values
                assert mu.shape[1] >= PER_CHUNK
                assert same(mu[:, :n], run.refresh().samples["posterior"]["mu"][:, : mu.shape[1]])


def damage_first_chunk(path):
    if path.suffix == ".zarr":
        (path / "log_likelihood/y/c/0/0/0").write_bytes(b"damaged")
        return
    with h5py.File(path) as file:
        place = file["log_likelihood/y"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"damaged")


@pytest.mark.parametrize("name", FILES)
def test_xarray_and_dask_read_only_what_is_asked_for(name, tmp_path):
    """Of a run with a damaged first chunk all else is read, and the graph has the run's chunks."""
    path, engine = tmp_path / name, FILES[name][1]
    sample(path)
    damage_first_chunk(path)
    late = {"draw": slice(-PER_CHUNK, None)}
    with js.open_run(path) as run, xarray.open_datatree(path, engine=engine, chunks={}) as tree:
        wanted = run.samples["log_likelihood"]["y"][:, -PER_CHUNK:].mean(1)
        y = tree["log_likelihood/y"]
        assert isinstance(y.data, dask.array.Array)
        assert y.chunks == ((CHAINS,), (PER_CHUNK,) * (DRAWS // PER_CHUNK), (len(Y),))
        ours = run.to_datatree()["log_likelihood/y"]
        for lazy in (y, ours, ours.chunk(draw=PER_CHUNK)):
            assert np.allclose(lazy.isel(late).mean("draw").compute(), wanted, rtol=1e-5)
            with pytest.raises((OSError, ValueError)):
                lazy.isel(draw=0).compute()
