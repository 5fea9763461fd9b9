"""A run at rest: what opens it, what it says, and how its arrays are indexed."""

import json

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from collecting import KINDS, STORED, assert_same, same
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxstore as js
from jaxstore.saving import beginning
from jaxstore.saving.beginning import write_coordinates
from jaxstore.sizes import size
from jaxstore.stores.indexing import split_index

KEY = jax.random.key(1)
FILES = {"zarr": ("run.zarr", "zarr"), "hdf5": ("run.h5", "h5netcdf")}


def step(x, i):
    x = 0.5 * x + jax.random.normal(jax.random.fold_in(KEY, i), x.shape)
    return x, {
        "posterior": {"beta": x, "deep": {"q": x[:, :2]}},
        "sample_stats": {"lp": -jnp.sum(x**2, axis=1), "diverging": x[:, 0] > 2},
    }


def flat_step(x, i):
    x, sample = step(x, i)
    return x, {"beta": x, "lp": sample["sample_stats"]["lp"]}


def sampled(kind, tmp_path, step=step, **options):
    path = tmp_path / FILES[kind][0]
    make = js.ZarrCollector if kind == "zarr" else js.HDF5Collector
    options = {"group": None, "dims": {"posterior/beta": ["feature"]}} | options
    with make(path, coords={"feature": ["a", "b", "ü"]}, **options) as collector:
        _, run = js.scan(
            step, jnp.zeros((4, 3)), jnp.arange(1000), chains=4, collector=collector,
            progress=False,
        )  # fmt: skip
        samples = jax.tree.map(np.asarray, run.samples)
    return path, samples


@pytest.mark.parametrize("kind", FILES)
def test_xarray_and_arviz_open_the_layout_as_it_stands(kind, tmp_path):
    path, samples = sampled(
        kind, tmp_path, flat_step, group="posterior", dims={"beta": ["feature"]}
    )
    with xarray.open_datatree(path, engine=FILES[kind][1]) as tree:
        assert tree.groups == ("/", "/posterior")
        posterior = tree["posterior"].to_dataset()
        assert posterior["beta"].dims == ("chain", "draw", "feature")
        assert same(posterior["beta"].values, samples["beta"])
        assert posterior["feature"].values.tolist() == ["a", "b", "ü"]
        assert "iteration" in posterior.coords
        assert "iteration" not in posterior.data_vars
        assert float(arviz.rhat(tree)["beta"].max()) < 1.05
        assert float(arviz.ess(tree)["beta"].min()) > 100
        assert "beta[ü]" in arviz.summary(tree).index


@pytest.mark.parametrize("kind", FILES)
def test_a_run_that_only_begins_is_missing_as_yet(kind, tmp_path, monkeypatch):
    """So that a reader who waits for it tells it from what is no run and never will be."""
    looks = 0

    def look(*args):
        nonlocal looks
        for _ in range(2):
            with pytest.raises(js.MissingError, match="there|no run yet: .* resume=True"):
                js.open_run(tmp_path / FILES[kind][0])
            looks += 1
            write_coordinates(*args)  # the second time they are there

    monkeypatch.setattr(beginning, "write_coordinates", look)
    path, samples = sampled(kind, tmp_path)
    assert looks == 2
    assert_same(js.open_run(path).samples, samples)


@pytest.mark.parametrize("kind", FILES)
def test_groups_that_the_user_named(kind, tmp_path):
    path, samples = sampled(kind, tmp_path)
    with xarray.open_datatree(path, engine=FILES[kind][1]) as tree:
        assert same(tree["sample_stats/lp"].values, samples["sample_stats"]["lp"])
        assert same(tree["posterior/deep/q"].values, samples["posterior"]["deep"]["q"])
    with js.open_run(path) as run:
        assert run.groups == ("posterior", "sample_stats")
        assert_same(run.samples, samples)


@pytest.mark.parametrize("kind", FILES)
def test_a_datatree_has_nested_leaves_flat_as_arviz_wants_them(kind, tmp_path):
    path, samples = sampled(kind, tmp_path)
    with js.open_run(path) as run:
        tree = run.to_datatree()
        assert same(tree["posterior"]["deep.q"].values, samples["posterior"]["deep"]["q"])
        assert tree["posterior"]["beta"].isel(draw=slice(3, 9, 2), chain=1).shape == (3, 3)
        summary = arviz.summary(tree)
        assert {"beta[a]", "deep.q[0]"} <= set(summary.index)


def test_a_datatree_of_a_run_in_memory():
    _, run = js.scan(step, jnp.zeros((4, 3)), jnp.arange(50), chains=4, progress=False,
                     collector=js.MemoryCollector())  # fmt: skip
    tree = run.to_datatree()
    assert same(tree["samples"]["posterior.beta"].values, run.samples["posterior"]["beta"])


def test_a_run_in_memory_is_laid_out_as_one_on_disk(tmp_path):
    collector = js.MemoryCollector(
        tmp_path,
        group=None,
        dims={"posterior/beta": ["feature"]},
        coords={"feature": ["a", "b", "ü"]},
        settings={"sampler": "walk"},
    )
    start, steps = jnp.zeros((4, 3)), jnp.arange(50)
    _, run = js.scan(step, start, steps, chains=4, collector=collector, progress=False)
    assert run.groups == ("posterior", "sample_stats")
    assert run.settings["sampler"] == "walk"
    tree = run.to_datatree()
    assert tree["posterior"]["beta"].sel(feature="ü").shape == (4, 50)
    assert same(tree["sample_stats"]["lp"].values, run.samples["sample_stats"]["lp"])
    with np.load(tmp_path / "chain_3.npz") as file:
        assert sorted(file) == [
            "posterior/beta", "posterior/deep/q", "sample_stats/diverging", "sample_stats/lp",
        ]  # fmt: skip
        assert same(file["posterior/beta"], run.samples["posterior"]["beta"][3])


def test_coordinates_may_be_numbers(tmp_path):
    with js.ZarrCollector(
        tmp_path / "run.zarr", dims={"x": ["t"]}, coords={"t": np.linspace(0, 1, 3)}
    ) as collector:
        js.scan(lambda x, _: (x, {"x": x}), jnp.zeros(3), length=3, collector=collector)
    tree = xarray.open_datatree(tmp_path / "run.zarr", engine="zarr")
    assert tree["samples"]["t"].values.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", FILES)
def test_a_run_tells_what_it_is(kind, tmp_path):
    path, _ = sampled(kind, tmp_path, settings={"sampler": "walk", "dt": 0.1})
    with js.open_run(path) as run:
        assert run.state == "complete"
        assert run.settings["sampler"] == "walk"
        assert run.settings["length"] == 1000
        assert run.versions["jax"] == jax.__version__
        assert run.n_chains == 4
        assert run.nbytes == 4 * 1000 * (12 + 8 + 4 + 1)
        assert run.created_at <= run.committed_at
        assert "4 chains of 1,000 draws" in repr(run)
        assert "posterior/deep/q" in repr(run)
        assert "<table>" in run._repr_html_()
        assert "posterior/beta (4, 1000, 3) float32" in repr(run.samples["posterior"]["beta"])


def test_sizes_for_people():
    assert [size(n) for n in (0, 1023, 2**20, 5 * 2**40)] == [
        "0 B", "1023 B", "1.0 MiB", "5.0 TiB"
    ]  # fmt: skip


INDICES = st.one_of(
    st.integers(-6, 5), st.slices(6), st.just(Ellipsis), st.lists(st.integers(0, 4), max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(index=st.lists(INDICES, max_size=3))
def test_a_stored_array_is_indexed_like_numpy(index):
    index = tuple(index)
    array = np.arange(6 * 5 * 6).reshape(6, 5, 6)
    n_lists = sum(isinstance(i, list) for i in index)
    if sum(i is Ellipsis for i in index) > 1 or n_lists > 1:
        return
    index = tuple(np.asarray(i, int) if isinstance(i, list) else i for i in index)
    try:
        want = array[index]
    except IndexError:
        with pytest.raises(IndexError):
            split_index(index, array.shape)
        return
    region, inside = split_index(index, array.shape)
    assert all(s.step in (None, 1) and 0 <= s.start <= s.stop for s in region)
    assert np.array_equal(array[region][inside], want)


@pytest.mark.parametrize("kind", STORED)
def test_handles_behave_like_arrays(kind, tmp_path):
    with KINDS[kind](tmp_path) as collector:
        carry, xs = jnp.zeros((4, 3)), jnp.arange(30)
        _, run = js.scan(step, carry, xs, chains=4, collector=collector, progress=False)
        handle = run.leaves[0]
        whole = np.asarray(handle)
        assert (len(handle), handle.ndim, handle.nbytes) == (4, 3, whole.nbytes)
        assert same(np.stack(list(handle)), whole)
        assert same(handle[-1, ::-7, 1], whole[-1, ::-7, 1])
        assert same(handle.of_chains((2, 0))[:, 3], whole[[2, 0], 3])
        assert same(handle.of_chain(3)[2:4], whole[3, 2:4])
        assert handle[4:, 0].shape == (0, 3)
        with pytest.raises(IndexError, match="out of range"):
            handle[9]
        with pytest.raises(IndexError, match="4 indices"):
            handle[0, 0, 0, 0]


@pytest.mark.parametrize("kind", STORED)
def test_names_that_collide_or_escape_come_back_as_they_were(kind, tmp_path):
    sample = {
        "a/b": 1.0, "a": {"b": 2.0}, "..": 3.0, "/": 4.0, "": 5.0, ".": 6.0, "draw": 7.0,
        "iteration": 8.0, "zarr.json": 9.0, "ünï": 10.0, "x" * 300: 11.0, "c": 12.0, "chain": 13.0,
    }  # fmt: skip
    with KINDS[kind](tmp_path) as collector:
        _, run = js.scan(
            lambda x, _: (x, sample), 0.0, length=5, collector=collector, progress=False
        )
        want = jax.tree.map(lambda v: np.full((1, 5), v, np.float32), sample)
        assert_same(run.samples, want)
    if kind != "memory":
        path = tmp_path / {"zarr": "run.zarr", "hdf5": "run.h5"}[kind]
        with js.open_run(path) as run:
            assert_same(run.samples, want)
        beside = [p.name for p in tmp_path.iterdir() if p != path]
        assert [name.rpartition("-")[0] for name in beside] == ["run.h5.checkpoint"] * (
            kind == "hdf5"
        )


def test_chunks_are_whole_flushes_of_one_to_sixteen_mebibytes(tmp_path):
    import zarr

    def big(x, _):
        return x + 1, {"big": x, "small": x[:, 0, 0]}

    with js.ZarrCollector(tmp_path / "big.zarr") as collector:
        js.scan(big, jnp.zeros((2, 512, 1024)), length=5, chains=2, collector=collector)
    group = zarr.open_group(tmp_path / "big.zarr", mode="r")["samples"]
    assert group["big"].chunks == (2, 1, 512, 1024)
    assert group["small"].chunks == (2, 8)
    with js.ZarrCollector(tmp_path / "small.zarr") as collector:
        js.scan(
            lambda x, _: (x, x), jnp.zeros((64, 10)), length=20_000, chains=64, collector=collector
        )
    assert zarr.open_group(tmp_path / "small.zarr", mode="r")["samples/sample"].chunks == (
        64, 1024, 10
    )  # fmt: skip


@pytest.mark.parametrize("kind", STORED)
def test_samples_of_one_session_are_read_while_another_still_writes(kind, tmp_path):
    with KINDS[kind](tmp_path) as collector:
        init_save, save, postprocess_save = js.save(collector, buffer_draws=4)

        def run(state, offset):
            return jax.lax.scan(lambda s, i: save(s, True, i + offset), state, jnp.arange(50))[0]

        first, second = init_save(jnp.int32(0)), init_save(jnp.int32(0))
        second = run(second, 100)
        found = postprocess_save(run(first, 0))["samples"]
        assert np.asarray(found).tolist() == list(range(50))
        second = run(second, 150)
        assert np.asarray(found).tolist() == list(range(50))
        assert np.asarray(postprocess_save(second)["samples"]).tolist() == list(range(100, 200))
        assert np.asarray(found).tolist() == list(range(50))
    if kind != "memory":
        with js.open_run(next(tmp_path.iterdir())) as run:
            assert run.sample_count.tolist() == [100, 50]
            assert json.dumps(dict(run.settings)) == "{}"
