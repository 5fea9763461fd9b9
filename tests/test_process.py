"""What `process` makes of functions, sources, settings and targets, against a plain loop."""

from __future__ import annotations

import inspect
import json
import logging

import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import xarray
import zarr
from processed import bits, files, hdf5_file, numbers, peak, run, waves, zarr_file

import jaxstore as js
from jaxstore.processing.request import understand

X = waves()


def looped(function, items, **params):
    """The same by a loop over batches of one size."""
    outputs = jax.jit(jax.vmap(lambda x: function(x, **params)))(items)
    return jax.tree.leaves(outputs)


@pytest.mark.parametrize("made", [zarr_file, hdf5_file])
@pytest.mark.parametrize("target", [None, "memory", "out.zarr", "out.h5"])
def test_every_source_goes_into_every_target(tmp_path, made, target):
    source = made(tmp_path / ("s.zarr" if made is zarr_file else "s.h5"), X)
    where = tmp_path / target if target in ("out.zarr", "out.h5") else target
    res = run(peak, source, where, params={"width": 2}, batch_size=20)
    assert (res.name, res.state, res.n_items) == ("raw-peak_000", "complete", 20)
    for name, wanted in zip(
        ["amp", "at/list_element_0", "at/list_element_1/wave"],
        looped(peak, X, width=2),
        strict=True,
    ):
        assert np.array_equal(res[name], wanted), name
        assert res[name].dtype == wanted.dtype
    assert res.params == {"width": 2}
    assert res.verify().damage == ()
    if target is None:  # beside its source, which stays as it is
        assert res.location.endswith("raw-peak_000")
        place = source.removesuffix(":/raw")
        there = zarr.open_group(place, mode="r") if made is zarr_file else h5py.File(place)
        assert set(there) == {"raw", "raw-peak_000"}
        assert np.array_equal(there["raw"], X)


def test_outputs_come_as_the_kernel_gives_them():
    res = run(peak, X)
    out = res.outputs
    assert set(out) == {"amp", "at"}
    assert np.array_equal(out["amp"], res["amp"])
    bare = run(lambda x: x[0], X, name="first")
    assert np.array_equal(bare.outputs, X[:, 0])
    assert bare.keys() == ["result"]


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ((X, X + 1), lambda xy: xy[0] * xy[1]),
        ([X, X + 1], lambda xy: xy[0] * xy[1]),
        ({"a": X, "b": X + 1}, lambda xy: xy["a"] * xy["b"]),
        ({"a": (X, {"c": X + 1})}, lambda xy: xy["a"][0] * xy["a"][1]["c"]),
    ],
)
def test_a_container_of_sources_is_a_container_of_items(source, function):
    res = run(function, source, name="p")
    assert np.array_equal(res["result"], X * (X + 1))


def test_sources_of_several_formats_and_chunks_and_axes_are_read_in_step(tmp_path):
    a = zarr_file(tmp_path / "a.zarr", X, chunks=(3, 2))
    b = hdf5_file(tmp_path / "b.h5", X.T.copy(), chunks=(6, 7))
    res = run(
        lambda p: p["a"] - p["b"], {"a": a, "b": b}, axis={"a": 0, "b": 1}, name="d", chunks=5
    )
    assert res["result"].shape == X.shape
    assert not res["result"][:].any()


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_items_lie_along_any_axis(tmp_path, axis):
    values = waves(60).reshape(5, 6, 12)
    source = zarr_file(tmp_path / "s.zarr", values, chunks=(2, 4, 5))
    res = run(lambda x: x, source, "memory", axis=axis, name="copy", chunks=2)
    assert np.array_equal(res["result"], np.moveaxis(values, axis, 0))


@pytest.mark.parametrize(
    "select",
    [[3, 1, 0], slice(None, None, -3), slice(5, 9), X[:, 0] > 0, [-1, 4, 4], range(2, 9)],
)  # fmt: skip
@pytest.mark.parametrize("made", [zarr_file, hdf5_file])
def test_items_are_selected_in_any_order(tmp_path, made, select):
    source = made(tmp_path / ("s.zarr" if made is zarr_file else "s.h5"), X)
    wanted = X[list(select)] if isinstance(select, (range, list)) else X[select]
    res = run(lambda x: x, source, "memory", select=select, name="copy", chunks=2, batch_size=3)
    assert np.array_equal(res["result"], wanted)


def test_selecting_inside_is_selecting_before():
    assert bits(run(peak, X, select=[7, 2, 9])) == bits(run(peak, X[[7, 2, 9]]))


def test_values_are_cast_before_the_function():
    ints = np.arange(12, dtype="i2").reshape(4, 3)
    res = run(lambda x: x / 2, ints, dtype="float32", name="half")
    assert res["result"].dtype == np.float32
    assert np.array_equal(res["result"], ints / np.float32(2))
    two = run(lambda p: p[0] + p[1], (ints, ints), dtype=("float32", None), name="sum")
    assert two["result"].dtype == np.float32


@pytest.mark.parametrize("block", [1, 2, 4, 6, 7])
def test_channels_are_computed_in_blocks(tmp_path, block):
    values = waves(60).reshape(10, 6, 6)
    source = zarr_file(tmp_path / "s.zarr", values, chunks=(4, 6, 3))

    def cleaned(x):
        return {"sum": x.sum(0), "wave": x - x.mean(0, keepdims=True)}

    whole = run(cleaned, source, "memory", chunks=3)
    # The channel axis of every output is where the item has it, so "sum" is told apart by an axis.
    cut = run(
        lambda x: x - x.mean(0, keepdims=True), source, "memory",
        name="cut", chan_per_worker=block, channel_axis=1, chunks=3, engine="threads", workers=2,
    )  # fmt: skip
    assert cut["result"].shape == values.shape
    assert np.array_equal(cut["result"], whole["wave"])
    assert len(cut.status) == 4 * -(-6 // min(block, 6))


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "int4", "uint2", "bool", "complex64", "float16", "float8_e4m3fn", "int8"]
)  # fmt: skip
@pytest.mark.parametrize("target", ["out.zarr", "out.h5"])
def test_dtypes_go_in_and_out(tmp_path, dtype, target):
    values = (np.arange(12).reshape(6, 2) % 2).astype(np.dtype(dtype))
    res = run(lambda x: {"same": x, "first": x[0]}, values, tmp_path / target, name="p", chunks=4)
    assert res["same"].dtype == res["first"].dtype == values.dtype
    assert res["same"][:].tobytes() == values.tobytes()
    assert np.array_equal(res["first"], values[:, 0])
    assert ml_dtypes  # registers their names


def test_big_endian_values_are_the_same_numbers(tmp_path):
    source = hdf5_file(tmp_path / "s.h5", X.astype(">f4"))
    assert bits(run(peak, source, "memory")) == bits(run(peak, X))


@pytest.mark.parametrize("target", ["out.zarr", "out.h5", "memory"])
def test_items_and_outputs_may_be_scalars_or_empty_or_larger(tmp_path, target):
    where = target if target == "memory" else tmp_path / target
    numbers_ = np.arange(7, dtype="f4")
    res = run(lambda x: x + 1, numbers_, where, name="scalar", chunks=3)
    assert np.array_equal(res["result"], numbers_ + 1)
    empty = run(
        lambda x: {"e": x, "s": x.sum()}, np.zeros((5, 0), "f4"), where, name="empty", chunks=2
    )
    assert empty["e"].shape == (5, 0)
    assert np.array_equal(empty["s"], np.zeros(5))
    large = run(lambda x: jnp.outer(x, jnp.arange(300.0)), X, where, name="large", chunks=3)
    assert large["result"].shape == (20, 6, 300)
    assert np.array_equal(large["result"], X[:, :, None] * np.arange(300, dtype="f4"))
    for one in (res, empty, large):
        assert one.verify().is_whole


def test_names_are_kept_reversibly_whatever_is_in_them(tmp_path):
    before = {p.name for p in tmp_path.parent.iterdir()}
    for target in ("out.zarr", "out.h5"):
        res = run(
            lambda x: {"a/b": x, "..": x, "ü %": x, "_errors": x, "item": x}, X, tmp_path / target,
            name="we/ird ..name",
        )  # fmt: skip
        assert set(res.outputs) == {"a/b", "..", "ü %", "_errors", "item"}
        assert all(np.array_equal(res[name], X) for name in res)
        assert [r.name for r in js.find(tmp_path / target, name="we/ird ..name")] == [res.name]
    assert {p.name for p in tmp_path.parent.iterdir()} == before


def test_dims_and_attrs_are_kept_and_xarray_reads_them(tmp_path):
    res = run(
        lambda x: {"wave": x, "top": x.max()}, X, tmp_path / "o.zarr", name="p",
        dims={"wave": ["time"]}, attrs={"sample": "A7", "n": [1, None]},
    )  # fmt: skip
    assert res["wave"].dims == ("item", "time")
    assert res.provenance["attrs"] == {"sample": "A7", "n": [1, None]}
    with xarray.open_zarr(tmp_path / "o.zarr" / res.name) as found:
        assert found["wave"].dims == ("item", "time")
        assert np.array_equal(found["wave"], X)
    data = res.to_dataset()
    assert data["top"].dims == ("item",)
    assert data.attrs["sample"] == "A7"


@pytest.mark.parametrize("target", ["o.zarr", "o.h5"])
def test_parameters_come_back_as_they_were_given(tmp_path, target):
    given = {
        "w": np.arange(20.0),
        "none": None,
        "e": np.zeros((2, 0)),
        "flag": True,
        "z": np.float32(3),
        "t": (1, "a"),
    }

    def scaled(x, *, w, none, e, flag, z, t):
        return x * w.sum() * z * t[0]

    run(scaled, X, tmp_path / target, params=given)
    (res,) = js.find(tmp_path / target)
    found = res.params
    assert found.keys() == given.keys()
    for name, value in given.items():
        assert type(found[name]) is type(value), name
        assert np.array_equal(found[name], value), name
    # A parameter as long as there are items is one value for all of them.
    assert np.allclose(res["result"], X * 190 * 3)


def test_provenance_is_json_and_complete(tmp_path):
    source = zarr_file(tmp_path / "s.zarr", X)
    found = run(peak, source, params={"width": 2}, chunks=5).provenance
    assert json.loads(json.dumps(found)) == found
    assert found["computation"]["sources"][0]["place"] == source
    assert found["settings"]["source"] == source
    assert found["plan"]["unit_items"] == 5
    assert {"jax", "jaxlib", "numpy", "python"} <= found["versions"].keys()
    (session,) = found["sessions"]
    assert session["engine"] == "serial"
    assert session["ended"] is not None


def test_functions_of_batches_give_what_functions_of_items_give():
    one = run(lambda x: {"s": jnp.sin(x).sum()}, X, name="p", chunks=4)
    many = run(lambda xs: {"s": jnp.sin(xs).sum(1)}, X, name="p", chunks=4, batched=True)
    assert bits(one) == bits(many)


@pytest.mark.parametrize("reduce", ["mean", "sum", "min", "max", "variance"])
def test_reductions_are_those_of_numpy(reduce):
    res = run(lambda x: {"v": x, "s": x.sum()}, X, reduce=reduce, name="r", chunks=3)
    wanted = getattr(np, {"variance": "var"}.get(reduce, reduce))
    assert res["v"].shape == (6,)
    assert np.allclose(res["v"], wanted(X, axis=0), rtol=1e-4)
    assert np.allclose(res["s"], wanted(X.sum(1)), rtol=1e-4)


def test_states_of_units_meet_in_their_order():
    digits = js.Reduce(
        init=lambda out: jnp.zeros((), "int32"),
        update=lambda state, value: state * 10 + value,
        combine=lambda a, b: a * 1000 + b,
        finalize=lambda state: state,
    )
    values = np.arange(1, 10, dtype="i4")
    for engine in ("serial", "threads"):
        res = run(lambda x: x, values, reduce=digits, name="d", chunks=3, engine=engine)
        assert int(res["result"][...]) == 123456789


def test_handles_are_sources_and_targets(tmp_path):
    address = hdf5_file(tmp_path / "s.h5", X)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        inside = run(peak, file["raw"], None)
        assert inside.name in file
        wanted = bits(inside)
        assert bits(run(peak, file["raw"], tmp_path / "o.zarr")) == wanted
    assert bits(run(peak, address, tmp_path / "p.zarr")) == wanted
    zarr_file(tmp_path / "z.zarr", X)
    group = zarr.open_group(tmp_path / "z.zarr", mode="r+")
    assert bits(run(peak, group["raw"], None)) == wanted
    assert "raw-peak_000" in zarr.open_group(tmp_path / "z.zarr", mode="r")
    other = zarr.open_group(tmp_path / "w.zarr", mode="w")
    assert bits(run(peak, X, other)) == wanted


def test_a_run_is_a_source(tmp_path):
    def step(carry, _):
        return carry + 1, {"theta": carry[:, None] * jnp.ones(3)}

    _, saved = js.scan(
        step,
        jnp.zeros(4),
        None,
        length=10,
        chains=4,
        collector=js.ZarrCollector(tmp_path / "r.zarr"),
        progress=False,
    )
    res = run(lambda draw: draw.sum(), f"{tmp_path}/r.zarr:/samples/theta", "memory", name="total")
    assert res.n_items == 10
    assert np.array_equal(res["result"], np.arange(10) * 12)
    del saved


def test_a_source_and_a_target_in_an_object_store(s3_bucket):
    url = f"s3://{s3_bucket}/s.zarr"
    array = zarr.open_group(js.store_from_url(url, read_only=False), mode="w").create_array(
        "raw", shape=X.shape, chunks=(4, 6), dtype="f4"
    )
    array[...] = X
    res = run(peak, f"{url}:/raw", None, chunks=4, engine="threads")
    assert bits(res) == bits(run(peak, X))
    assert res.location.startswith(url)
    again = run(peak, f"{url}:/raw", None, chunks=4)
    assert again.name == res.name


def test_a_plan_tells_what_comes_and_writes_nothing(tmp_path):
    source = zarr_file(tmp_path / "s.zarr", X)
    before = files(tmp_path)
    plan = js.plan(peak, source, tmp_path / "o.zarr", chunks=4, engine="serial")
    assert files(tmp_path) == before
    assert (plan.n_items, plan.n_units, plan.unit_items, plan.matches) == (20, 5, 4, ())
    assert plan.projected_bytes <= plan.memory_bytes
    assert [o.name for o in plan.outputs] == ["amp", "at/list_element_0", "at/list_element_1/wave"]
    assert "computed afresh" in repr(plan)
    res = run(peak, source, tmp_path / "o.zarr", chunks=4)
    after = files(tmp_path)
    again = js.plan(peak, source, tmp_path / "o.zarr")
    assert again.matches == (res.name,)
    assert again.fingerprint == plan.fingerprint == res.fingerprint
    assert "nothing to do: raw-peak_000 is complete" in repr(again)
    assert files(tmp_path) == after


def test_a_million_small_items_cost_little_each(tmp_path):
    res = run(lambda x: x + 1, np.arange(10**6, dtype="f4"), tmp_path / "o.zarr", name="p")
    assert len(res.status) < 100
    assert np.array_equal(res["result"], np.arange(1, 10**6 + 1, dtype="f4"))


def test_what_the_host_computes_is_told_of(caplog):
    def kernel(x):
        return jax.pure_callback(np.sin, x, x, vmap_method="expand_dims")

    with caplog.at_level(logging.WARNING, "jaxstore"):
        run(kernel, X)
    assert "kernel calls Python on the host" in caplog.text
    caplog.clear()

    def printing(x):
        jax.debug.callback(lambda: None)
        return x

    with caplog.at_level(logging.WARNING, "jaxstore"):
        assert np.array_equal(run(printing, numbers(4))["result"], numbers(4))
    assert caplog.text == ""


def test_a_source_that_was_changed_between_plan_and_process_is_another(tmp_path):
    source = zarr_file(tmp_path / "s.zarr", X)
    plan = js.plan(peak, source, "memory")
    zarr.open_array(tmp_path / "s.zarr" / "raw")[0] = 0
    assert run(peak, source, "memory").fingerprint != plan.fingerprint


def test_results_of_one_name_in_one_place_are_numbered_past_what_others_made(tmp_path):
    zarr.open_group(tmp_path / "o.zarr", mode="w").create_group("x-p_000")
    names = [run(lambda x, n=n: x * n, X, tmp_path / "o.zarr", name="p").name for n in range(3)]
    assert names == ["x-p_001", "x-p_002", "x-p_003"]
    with pytest.raises(js.MissingError, match=r"no 'nothing' in .*x-p_001. There is \['result'\]"):
        js.find(tmp_path / "o.zarr")[0]["nothing"]


@pytest.mark.parametrize("target", ["out.zarr", "out.h5", "out.zarr:/of/today", "memory"])
def test_an_array_of_a_result_is_a_source_and_has_results_beside_its_own(
    tmp_path, monkeypatch, target
):
    monkeypatch.chdir(tmp_path)
    first = run(lambda x: {"sorted": jnp.sort(x)}, X, target, name="sort")
    found = run(jnp.max, first["sorted"], None, name="max")
    assert (found.name, found.state) == ("sorted-max_000", "complete")
    assert found.location.replace("sorted-max", "x-sort") == first.location
    assert np.array_equal(found["result"], X.max(1))
    assert run(jnp.max, first["sorted"], None, name="max").name == found.name
    address = first["sorted"].address
    assert (address is None) == (target == "memory")
    if address is not None:
        (tmp_path / "else").mkdir()
        monkeypatch.chdir(tmp_path / "else")
        assert np.array_equal(run(jnp.max, address)["result"], X.max(1))


@pytest.mark.parametrize("made", [js.ZarrCollector, js.HDF5Collector])
def test_results_beside_the_draws_of_a_run_are_sources(tmp_path, made):
    with made(tmp_path / "run.x") as collector:
        _, draws = js.scan(
            lambda x, _: (x + 1, {"x": x}), jnp.zeros((2, 3)), length=9, chains=2,
            collector=collector, progress=False,
        )  # fmt: skip
    sums = run(jnp.sum, draws.samples["x"], None)["result"]
    for source in (sums, sums.address):
        assert np.array_equal(run(jnp.negative, source)["result"], 6.0 * -np.arange(9))
        with js.Loader(source, batch_size=9, shuffle=False) as loader:
            (rows,) = next(iter(loader)).arrays.values()
            assert np.array_equal(rows, 6.0 * np.arange(9))
    with pytest.raises(js.MissingError, match=r"no 'y' in the run at .*There is: 'samples/x'"):
        run(jnp.sum, f"{tmp_path / 'run.x'}:/y")


def test_a_zarr_array_named_without_its_group_needs_a_target(tmp_path):
    path = zarr_file(tmp_path / "s.zarr", X).replace(":/", "/")
    with pytest.raises(js.MismatchError, match=r"array by itself.* Name the array in its group"):
        run(jnp.max, path, None)
    assert run(jnp.max, path, "memory").state == "complete"


def test_settings_are_the_same_whichever_way_they_are_given():
    wanted, found, ensemble = (
        {name: (p.default, p.annotation) for name, p in inspect.signature(f).parameters.items()}
        for f in (js.process, understand, js.ensemble)
    )
    assert {name: wanted[name] for name in wanted if name != "target"} == found
    own = {"simulate", "n", "target", "key", "init", "length", "thin"}
    assert {name: ensemble[name] for name in ensemble if name not in own}.items() <= found.items()
