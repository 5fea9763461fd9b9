"""jaxstore beside the libraries that its users run, written as they would write it."""

import blackjax
import diffrax
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from collecting import assert_same, same
from flax import linen, nnx
from flax.core import freeze
from numpyro.infer import NUTS
from numpyro.infer.util import initialize_model

import jaxstore as js

KEY = jax.random.key(0)
DATA = 1.5 + 0.5 * jax.random.normal(KEY, (20,))


def logdensity(position):
    return dist.Normal(position["mu"], jnp.exp(position["log_sigma"])).log_prob(DATA).sum()


def test_blackjax_nuts_with_vmapped_chains_in_scan(tmp_path):
    nuts = blackjax.nuts(logdensity, step_size=0.2, inverse_mass_matrix=jnp.ones(2))
    start = {"mu": jnp.linspace(1, 2, 4), "log_sigma": jnp.zeros(4)}
    states = jax.vmap(nuts.init)(start)

    def step(states, key):
        states, info = jax.vmap(nuts.step)(jax.random.split(key, 4), states)
        sample = {
            "posterior": states.position,
            "sample_stats": {"lp": states.logdensity, "n_steps": info.num_integration_steps},
        }
        return states, sample

    keys = jax.random.split(KEY, 200)
    with js.ZarrCollector(tmp_path / "run.zarr", group=None) as collector:
        last, run = js.scan(step, states, keys, chains=4, burn_in=50, collector=collector,
                            progress=False)  # fmt: skip
        want_last, want = jax.lax.scan(step, states, keys)
        assert_same(last, want_last)
        assert_same(run.samples, jax.tree.map(lambda a: np.swapaxes(a[50:], 0, 1), want))


def test_blackjax_in_the_users_own_loop_with_the_triple():
    hmc = blackjax.hmc(logdensity, step_size=0.1, inverse_mass_matrix=jnp.ones(2),
                       num_integration_steps=5)  # fmt: skip
    init_save, save, postprocess_save = js.save(buffer_draws=16)

    def chain(key, mu):
        state = hmc.init({"mu": mu, "log_sigma": 0.0})
        saving = init_save({"position": state.position, "accepted": True})

        def step(carry, key):
            saving, state = carry
            state, info = hmc.step(key, state)
            sample = {"position": state.position, "accepted": info.is_accepted}
            saving, _ = save(saving, info.is_accepted, sample)
            return (saving, state), sample

        (saving, _), stacked = jax.lax.scan(step, (saving, state), jax.random.split(key, 100))
        return saving, stacked

    run = jax.jit(jax.vmap(chain))
    saving, stacked = run(jax.random.split(KEY, 3), jnp.arange(3.0))
    saved = postprocess_save(saving)
    for c in range(3):
        accepted = np.asarray(stacked["accepted"][c])
        n = accepted.sum()
        assert int(saved["sample_count"][c]) == n
        mu = saved["samples"]["position"]["mu"][c, :n]
        assert same(mu, np.asarray(stacked["position"]["mu"][c])[accepted])


def test_numpyro_nuts():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("data", len(DATA)):
            numpyro.sample("y", dist.Normal(mu, 0.5), obs=DATA)

    info = initialize_model(jax.random.PRNGKey(0), model)
    kernel = NUTS(potential_fn=info.potential_fn, dense_mass=False)
    state = kernel.init(jax.random.PRNGKey(1), 50, info.param_info, (), {})

    def step(state, _):
        state = kernel.sample(state, (), {})
        return state, {"mu": state.z["mu"], "energy": state.energy}

    _, run = js.scan(step, state, length=80, burn_in=50, progress=False)
    assert run.samples["mu"].shape == (1, 30)
    assert abs(float(run.samples["mu"].mean()) - float(DATA.mean())) < 0.5


def test_diffrax_saves_every_solver_step_of_many_paths(tmp_path):
    def drift(t, y, args):
        return -args * y

    term, solver = diffrax.ODETerm(drift), diffrax.Heun()

    def step(carry, i):
        y, t = carry
        y, *_ = solver.step(term, t, t + 0.1, y, 2.0, None, made_jump=False)
        return (y, t + 0.1), {"t": jnp.broadcast_to(t + 0.1, y.shape), "y": y}

    with js.HDF5Collector(tmp_path / "paths.h5") as collector:
        _, run = js.scan(
            step, (jnp.arange(1.0, 6.0), jnp.float32(0)), jnp.arange(20), chains=5,
            collector=collector, progress=False,
        )  # fmt: skip
        y = np.asarray(run.samples["y"])
    assert y.shape == (5, 20)
    assert np.allclose(y[:, -1] / np.arange(1, 6), np.exp(-4), atol=0.01)


def trained(params, loss, collector):
    """Train with Adam and keep the parameters of every tenth step."""
    optimizer = optax.adam(1e-2)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = (params, optimizer.init(params))
    (last, _), run = js.scan(step, carry, length=50, thin=10, collector=collector, progress=False)
    return last, run


X = jnp.linspace(-1, 1, 32)[:, None]
Y = X**2


def linen_params():
    net = linen.Sequential([linen.Dense(4), jax.nn.tanh, linen.Dense(1)])
    return net.init(KEY, X), lambda p: jnp.mean((net.apply(p, X) - Y) ** 2)


def frozen_params():
    params, loss = linen_params()
    return freeze(params), loss


def haiku_params():
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 1])(x)))
    return net.init(KEY, X), lambda p: jnp.mean((net.apply(p, X) - Y) ** 2)


def nnx_params():
    graph, params = nnx.split(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), nnx.Param)
    return params, lambda p: jnp.mean((nnx.merge(graph, p)(X) - Y) ** 2)


def equinox_params():
    params, static = eqx.partition(eqx.nn.MLP(1, 1, 4, 1, key=KEY), eqx.is_inexact_array)
    return params, lambda p: jnp.mean((jax.vmap(eqx.combine(p, static))(X) - Y) ** 2)


@pytest.mark.parametrize(
    "make", [linen_params, frozen_params, haiku_params, nnx_params, equinox_params]
)
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_parameters_of_a_network_come_back_in_their_own_structure(make, suffix, tmp_path):
    params, loss = make()
    path = tmp_path / f"params.{suffix}"
    with (js.HDF5Collector if suffix == "h5" else js.ZarrCollector)(path) as collector:
        last, run = trained(params, loss, collector)
        stored = jax.tree.map(lambda a: jnp.asarray(a[0, -1]), run.samples)
        assert_same(stored, last)
    with js.open_run(path) as run:
        nested = jax.tree.map(lambda a: np.asarray(a[0, -1]), run.samples)
        assert_same(js.dict_to_pytree(nested, last), last)
