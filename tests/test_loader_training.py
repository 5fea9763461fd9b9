"""Training on stored rows, each program written as the users of its library would write it."""

from __future__ import annotations

import json

import equinox as eqx
import h5py
import haiku as hk
import hdf5plugin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zarr
from collecting import assert_same
from flax import linen, nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxstore as js

N_ROWS, N_EPOCHS, CHUNK_ROWS = 250, 6, 24
BATCHES = {"batch_size": 32, "window_chunks": 4, "remainder": "pad"}  # the last one has 26 rows
N_BATCHES = N_EPOCHS * 8
KEY = jax.random.key(0)
OPTIMIZER = optax.adam(0.02)


def in_zarr(folder, arrays):
    group = zarr.open_group(folder / "data.zarr", mode="w")
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(CHUNK_ROWS, *values.shape[1:]))
    return folder / "data.zarr"


def in_hdf5(folder, arrays):
    with h5py.File(folder / "data.h5", "w") as file:
        for name, values in arrays.items():
            chunks = (CHUNK_ROWS, *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, **hdf5plugin.Zstd())
    return folder / "data.h5"


@pytest.fixture
def arrays():
    x = np.random.default_rng(0).normal(size=(N_ROWS, 4)).astype("f4")
    return {"x": x, "y": np.tanh(x @ np.float32([1, -1, 0.5, 0])) + 1}


def squared_error(predicted, batch):
    return jnp.where(batch.mask, (predicted - batch["y"]) ** 2, 0).sum() / batch.mask.sum()


def linen_program(traces):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(1)(jax.nn.tanh(linen.Dense(8)(x)))[:, 0]

    net = Net()
    return with_optax(net.init(KEY, jnp.zeros((1, 4))), net.apply, traces)


def haiku_program(traces):
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 1])(x)[:, 0]))
    return with_optax(net.init(KEY, jnp.zeros((1, 4))), net.apply, traces)


def with_optax(params, apply, traces):
    @jax.jit
    def step(state, batch):
        traces.append(batch)
        params, opt_state = state
        value, grads = jax.value_and_grad(lambda p: squared_error(apply(p, batch["x"]), batch))(
            params
        )
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    return lambda: (params, OPTIMIZER.init(params)), step


def nnx_program(traces):
    def start():
        rngs = nnx.Rngs(0)
        net = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jnp.tanh, nnx.Linear(8, 1, rngs=rngs))
        return net, nnx.Optimizer(net, OPTIMIZER, wrt=nnx.Param)

    @nnx.jit
    def update(net, optimizer, batch):
        traces.append(batch)
        loss = nnx.value_and_grad(lambda net: squared_error(net(batch["x"])[:, 0], batch))
        value, grads = loss(net)
        optimizer.update(net, grads)
        return value

    def step(state, batch):  # which it changes in place
        return state, update(*state, batch)

    return start, step


def equinox_program(traces):
    params, static = eqx.partition(eqx.nn.MLP(4, "scalar", 8, 1, key=KEY), eqx.is_inexact_array)

    @eqx.filter_jit
    def step(state, batch):
        traces.append(batch)
        params, opt_state = state

        @eqx.filter_value_and_grad
        def loss(params):
            return squared_error(jax.vmap(eqx.combine(params, static))(batch["x"]), batch)

        value, grads = loss(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return (eqx.apply_updates(params, updates), opt_state), value

    return lambda: (params, OPTIMIZER.init(params)), step


def train(state, step, loader, *, stop_after=None):
    """Parameters after all epochs, or as many batches, and the loss of each batch."""
    losses = []
    while loader.state()["epoch"] < N_EPOCHS:
        for batch in loader:
            state, loss = step(state, batch)
            losses.append(float(loss))
            if len(losses) == stop_after:
                return state, losses
    return state, losses


def write_checkpoint(folder, state, loader):
    np.savez(folder / "parameters.npz", *jax.tree.leaves(state))
    (folder / "loader.json").write_text(json.dumps(loader.state()))


def read_checkpoint(folder, like, loader):
    with np.load(folder / "parameters.npz") as saved:
        leaves = [jnp.asarray(saved[name]) for name in saved.files]
    loader.restore(json.loads((folder / "loader.json").read_text()))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def whole_and_stopped(program, path, folder, *, place=lambda state: state, **settings):
    """Parameters and losses of training at a stretch, and of training that was stopped."""
    start, step = program
    whole = train(place(start()), step, js.Loader(path, **BATCHES, **settings))

    loader = js.Loader(path, **BATCHES, **settings)
    state, before = train(place(start()), step, loader, stop_after=11)
    write_checkpoint(folder, state, loader)

    loader = js.Loader(path, **BATCHES, **settings, prefetch=0, max_inflight=1)
    state = read_checkpoint(folder, start(), loader)
    last, after = train(place(state), step, loader)
    return whole, (last, before + after)


@pytest.mark.parametrize(
    ("make", "store"),
    [
        (linen_program, in_zarr),
        (nnx_program, in_hdf5),
        (haiku_program, in_hdf5),
        (equinox_program, in_zarr),
    ],
)
def test_training_that_was_stopped_ends_in_the_same_bits(make, store, arrays, tmp_path):
    traces = []
    (last, losses), stopped = whole_and_stopped(make(traces), store(tmp_path, arrays), tmp_path)
    assert len(losses) == N_BATCHES
    assert np.mean(losses[-8:]) < 0.3 * np.mean(losses[:8])
    assert stopped[1] == losses
    assert_same(jax.tree.leaves(stopped[0]), jax.tree.leaves(last))
    assert len(traces) == 1


def test_a_batch_over_several_devices_trains_one_set_of_parameters(arrays, tmp_path):
    mesh = jax.make_mesh((4,), ("data",))
    sharding = NamedSharding(mesh, P("data"))
    traces, path = [], in_zarr(tmp_path, arrays)
    program = haiku_program(traces)
    (last, losses), stopped = whole_and_stopped(
        program,
        path,
        tmp_path,
        place=lambda state: jax.device_put(state, NamedSharding(mesh, P())),
        sharding=sharding,
    )
    assert [jax.typeof(batch["x"]).sharding.spec for batch in traces] == [P("data", None)]
    assert stopped[1] == losses
    assert_same(jax.tree.leaves(stopped[0]), jax.tree.leaves(last))
    assert len(traces) == 1
    assert all(len(leaf.devices()) == 4 for leaf in jax.tree.leaves(last))
    start, step = program
    _, alone = train(start(), step, js.Loader(path, **BATCHES))
    assert np.allclose(losses, alone, rtol=1e-3)


def test_validation_sees_every_row_of_its_split_once_and_training_none(arrays, tmp_path):
    path = in_zarr(tmp_path, arrays)
    manifest = js.split_by_chunk(js.open_geometries(path)["x"], fractions=(0.7, 0.3))
    rows = manifest.sample_indices("val")
    start, step = linen_program([])
    training = js.Loader(path, split="train", manifest=manifest, **BATCHES)
    validation = js.Loader(path, split="val", manifest=manifest, shuffle=False, **BATCHES)

    @jax.jit
    def add_errors(weights, total, batch):
        error = jnp.where(batch.mask, (batch["x"] @ weights - batch["y"]) ** 2, 0)
        return total[0] + error.sum(), total[1] + batch.mask.sum()

    weights = jnp.array([1.0, -1, 0.5, 0])
    wanted = ((arrays["x"][rows] @ np.asarray(weights) - arrays["y"][rows]) ** 2).sum()
    state, seen = start(), []
    for _ in range(2):
        for batch in training:
            state, _ = step(state, batch)
            seen += batch.rows[batch.mask].tolist()
        total = jnp.zeros(()), jnp.zeros((), int)
        for batch in validation:
            total = add_errors(weights, total, batch)
        assert int(total[1]) == len(rows) < len(validation) * 32
        assert np.isclose(float(total[0]), wanted, rtol=1e-5)
    assert sorted(seen) == sorted([*set(range(N_ROWS)) - set(rows.tolist())] * 2)


def test_draws_of_a_run_are_what_a_density_is_fitted_to(tmp_path):
    def step(x, key):  # an autoregression with mean (1, -2) and deviation 0.5
        mean = jnp.array([1.0, -2])
        x = mean + 0.6 * (x - mean) + 0.4 * jax.random.normal(key, x.shape)
        return x, {"posterior": {"theta": x}}

    with js.ZarrCollector(tmp_path / "run.zarr", group=None) as collector:
        keys = jax.random.split(KEY, 1000)
        _, run = js.scan(
            step, jnp.zeros((4, 2)), keys, chains=4, collector=collector, progress=False
        )
        theta = np.asarray(run.samples["posterior"]["theta"])

    @jax.jit
    def update(state, batch):
        params, opt_state = state

        def loss(params):
            z = (batch["theta"] - params["mean"]) / jnp.exp(params["log_scale"])
            losses = (z**2 / 2 + params["log_scale"]).mean((1, 2))  # over (chain, axis)
            return jnp.where(batch.mask, losses, 0).sum() / batch.mask.sum()

        updates, opt_state = OPTIMIZER.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    loader = js.Loader(tmp_path / "run.zarr", {"theta": "posterior/theta"}, batch_size=64)
    params = {"mean": jnp.zeros(2), "log_scale": jnp.zeros(2)}
    state = params, OPTIMIZER.init(params)
    for _ in range(25):
        for batch in loader:
            state = update(state, batch)
    assert np.allclose(state[0]["mean"], theta.mean((0, 1)), atol=0.05)
    assert np.allclose(jnp.exp(state[0]["log_scale"]), theta.std((0, 1)), atol=0.05)


def test_a_batch_goes_to_numpy_and_back_without_a_copy(arrays, tmp_path):
    batch = next(iter(js.Loader(in_hdf5(tmp_path, arrays), **BATCHES)))
    host = np.from_dlpack(batch["x"])
    assert np.array_equal(host, arrays["x"][batch.rows])
    if jax.__version_info__ < (0, 12):
        pytest.skip("this jax takes no array from NumPy that may not be written")
    back = jnp.from_dlpack(host)
    assert back.unsafe_buffer_pointer() == batch["x"].unsafe_buffer_pointer()
    assert_same(back, batch["x"])


def test_a_batch_goes_to_torch_and_back(arrays, tmp_path):
    torch = pytest.importorskip("torch")
    batch = next(iter(js.Loader(in_hdf5(tmp_path, arrays), **BATCHES)))
    tensor = torch.from_dlpack(batch["x"])
    assert np.array_equal(tensor.numpy(), arrays["x"][batch.rows])
    assert_same(jnp.from_dlpack(tensor), batch["x"])


def test_a_batch_goes_to_cupy_and_back(arrays, tmp_path):
    cupy = pytest.importorskip("cupy")
    batch = next(iter(js.Loader(in_hdf5(tmp_path, arrays), **BATCHES)))
    if batch["x"].device.platform != "gpu":
        pytest.skip("the batches of this machine are not on a GPU")
    array = cupy.from_dlpack(batch["x"])
    assert np.array_equal(array.get(), arrays["x"][batch.rows])
    assert_same(jnp.from_dlpack(array), batch["x"])
