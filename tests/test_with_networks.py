"""Networks trained on stored rows, and their parameters on disk, as users of each library write it.

Training in a loop of Python is in `test_loader_training`; here each step is part of a program.
"""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from collecting import assert_same
from flax import linen, nnx
from flax.core import freeze
from flax.training.train_state import TrainState
from resuming import Stopped, stopped_after

import jaxstore as js

KEY = jax.random.key(0)
X = np.linspace(-1, 1, 96, dtype="float32")[:, None]
DATA = {"x": X, "y": X**2}
COLLECTORS = {"run.zarr": js.ZarrCollector, "run.h5": js.HDF5Collector}


def mean_square(predicted, batch):
    return jnp.mean((predicted - batch["y"]) ** 2)


def linen_with_train_state():
    """A `TrainState` is the carry, functions and all; its parameters are the sample."""
    net = linen.Sequential([linen.Dense(4), jax.nn.tanh, linen.Dense(1)])
    params = net.init(KEY, X)["params"]
    state = TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(1e-2))

    def update(state, batch):
        def loss(params):
            return mean_square(state.apply_fn({"params": params}, batch["x"]), batch)

        value, grads = jax.value_and_grad(loss)(state.params)
        state = state.apply_gradients(grads=grads)
        return state, {"loss": value, "params": state.params}

    return state, update


def nnx_split_and_merged():
    """Module and optimizer, split into a graph and a state; dropout has a key in that."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(1, 4, rngs=rngs)
            self.dropout = nnx.Dropout(0.1, rngs=rngs)
            self.out = nnx.Linear(4, 1, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(jax.nn.tanh(self.hidden(x))))

    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(1e-2), wrt=nnx.Param)
    graph, state = nnx.split((net, optimizer))

    def update(state, batch):
        net, optimizer = nnx.merge(graph, state)
        value, grads = nnx.value_and_grad(lambda net: mean_square(net(batch["x"]), batch))(net)
        optimizer.update(net, grads)
        return nnx.state((net, optimizer)), {"loss": value, "net": nnx.state(net)}

    return state, update


def haiku_with_state():
    """`transform_with_state`: moving averages are kept beside the parameters."""

    def forward(x):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training=True)
        return hk.Linear(1)(jax.nn.tanh(x))

    net, optimizer = hk.transform_with_state(forward), optax.adam(1e-2)
    params, averages = net.init(KEY, X)

    def update(state, batch):
        params, averages, opt_state = state

        def loss(params):
            predicted, new = net.apply(params, averages, None, batch["x"])
            return mean_square(predicted, batch), new

        (value, averages), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, averages, opt_state), {"loss": value, "params": params, "state": averages}

    return (params, averages, optimizer.init(params)), update


def equinox_partitioned():
    """Arrays of a module are the carry and the sample; what is static stays in the program."""
    net = eqx.nn.MLP(1, 1, 4, 1, key=KEY)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    optimizer = optax.adam(1e-2)

    def update(state, batch):
        params, opt_state = state

        def loss(params):
            return mean_square(jax.vmap(eqx.combine(params, static))(batch["x"]), batch)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = eqx.apply_updates(params, updates)
        return (params, opt_state), {"loss": value, "net": params}

    return (params, optimizer.init(params)), update


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (linen_with_train_state, "run.zarr"),
        (nnx_split_and_merged, "run.h5"),
        pytest.param(haiku_with_state, "run.zarr", marks=pytest.mark.slow),
        pytest.param(equinox_partitioned, "run.h5", marks=pytest.mark.slow),
    ],
)
def test_training_that_was_stopped_has_the_same_parameters(make, name, tmp_path):
    """Model, optimizer and position in the data are the carry; every tenth step is a sample."""
    loader = js.Loader(DATA, batch_size=32, seed=0)
    with js.feed(loader) as (init_batch, next_batch, _):
        first, update = make()

        def step(carry, _):
            feed, state = carry
            feed, batch = next_batch(feed)
            state, sample = update(state, batch)
            return (feed, state), sample

        def train(collector):
            return js.scan(
                step, (init_batch(), first), length=120, thin=10, collector=collector,
                checkpoint_every=20, buffer_draws=2, resume=True,
            )  # fmt: skip

        with stopped_after(5), pytest.raises(Stopped):
            train(COLLECTORS[name](tmp_path / name))
        (_, state), run = train(COLLECTORS[name](tmp_path / name))
        (_, wanted), whole = train(js.MemoryCollector())
        assert_same(state, wanted)
        assert_same(run.samples, whole.samples)
    assert whole.samples["loss"][0, -1] < whole.samples["loss"][0, 0]

    # In another process: what lies there, in the structure of a model that was just made.
    with js.open_run(tmp_path / name) as run:
        last = jax.tree.map(lambda leaf: leaf[0, -1], run.samples)
    like = jax.eval_shape(update, first, DATA)[1]
    assert_same(js.dict_to_pytree(last, like), jax.tree.map(lambda a: a[0, -1], whole.samples))


def test_a_train_state_that_was_made_anew_goes_on(tmp_path):
    """Its functions are others in each process, and no part of what is compared."""

    def train(length):
        state, update = linen_with_train_state()
        collector = js.ZarrCollector(tmp_path / "run.zarr")
        return js.scan(
            lambda state, _: update(state, DATA), state, length=length, thin=10,
            collector=collector, resume=True,
        )  # fmt: skip

    train(20)
    state, run = train(40)
    assert int(state.step) == 40
    assert run.samples["loss"].shape == (1, 4)
    assert_same(jax.tree.map(lambda leaf: leaf[0, -1], run.samples["params"]), state.params)


class Walker(eqx.Module):
    """A module that is a sample as it is: fields are leaves, static ones are none."""

    position: jax.Array
    key: jax.Array
    half: jax.Array
    unit: str = eqx.field(static=True)
    stride: float = eqx.field(static=True)

    def moved(self):
        key, now = jax.random.split(self.key)
        position = self.position + self.stride * jax.random.normal(now, self.position.shape)
        return Walker(position, key, position.astype(jnp.bfloat16), self.unit, self.stride)


@pytest.mark.parametrize("name", COLLECTORS)
def test_an_equinox_module_is_a_sample(name, tmp_path):
    """With a typed key and a bfloat16 in it, and static fields that come back from the target."""

    def step(walker, _):
        walker = walker.moved()
        return walker, walker

    first = Walker(jnp.zeros(3), KEY, jnp.zeros(3, jnp.bfloat16), "m", 0.5)
    with COLLECTORS[name](tmp_path / name) as collector:
        last, run = js.scan(step, first, length=20, collector=collector)
        assert isinstance(run.samples, Walker)
        assert run.samples.unit == "m"
        assert run.samples.position.shape == (1, 20, 3)
    with js.open_run(tmp_path / name) as run:
        assert sorted(run.samples) == ["half", "key", "position"]
        found = jax.tree.map(lambda leaf: leaf[0, -1], run.samples)
        assert_same(js.dict_to_pytree(found, first), last)


def test_frozen_dicts_are_samples(tmp_path):
    params = freeze(linen.Dense(2).init(KEY, X))
    with js.ZarrCollector(tmp_path / "run.zarr") as collector:
        _, run = js.scan(lambda p, _: (p, p), params, length=3, collector=collector)
        assert_same(jax.tree.map(lambda leaf: leaf[0, 0], run.samples), params)
