"""BlackJAX samplers that stream to disk, written as its users would write them."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import assert_same, same
from jax.scipy import stats
from resuming import Stopped, stopped_after

import jaxstore as js
from jaxstore.saving import recorder

DATA = 1.5 + 0.5 * jax.random.normal(jax.random.key(7), (200,))
MEAN, STANDARD_ERROR = float(DATA.mean()), float(DATA.std()) / len(DATA) ** 0.5
CHAINS = 4


def log_density(position):
    """Of the mean and the logarithm of the deviation of `DATA`, under flat priors."""
    return stats.norm.logpdf(DATA, position["mu"], jnp.exp(position["log_sigma"])).sum()


def first_position(key):
    mu, log_sigma = jax.random.normal(key, (2,))
    return {"mu": mu, "log_sigma": 0.1 * log_sigma}


def test_nuts_with_window_adaptation_and_vmapped_chains(tmp_path):
    """Each chain adapts for itself; a run that was stopped after 100 draws goes on to 250."""
    adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)
    kernel = blackjax.nuts.build_kernel()

    @jax.jit
    @jax.vmap
    def warm_up(key):
        begin_key, warm_up_key, key = jax.random.split(key, 3)
        found, _ = adaptation.run(warm_up_key, first_position(begin_key), 200)
        return key, found.state, found.parameters

    @jax.vmap
    def one_step(carry):
        key, state, parameters = carry
        key, now = jax.random.split(key)
        state, info = kernel(now, state, log_density, **parameters)
        statistics = {
            "lp": state.logdensity,
            "acceptance_rate": info.acceptance_rate,
            "diverging": info.is_divergent,
            "n_steps": info.num_integration_steps,
        }
        draw = {"posterior": state.position, "sample_stats": statistics}
        return (key, state, parameters), draw

    def step(carry, _):
        return one_step(carry)

    def sample(draws):
        collector = js.ZarrCollector(tmp_path / "run.zarr", group=None)
        return js.scan(
            step, warmed, length=draws, chains=CHAINS, collector=collector, resume=True
        )  # fmt: skip

    warmed = warm_up(jax.random.split(jax.random.key(0), CHAINS))
    sample(100)
    (_, states, _), run = sample(250)

    mu = run.samples["posterior"]["mu"]
    assert mu.shape == (CHAINS, 250)
    assert same(mu[:, -1], states.position["mu"])
    assert not np.any(mu[:, 100:200] == mu[:, :100])  # it went on, and did not begin again
    assert abs(mu[:].mean() - MEAN) < 0.3 * STANDARD_ERROR
    assert 0.8 < mu[:].std() / STANDARD_ERROR < 1.2
    assert not run.samples["sample_stats"]["diverging"][:].any()


def sgld(gradient):
    step = blackjax.sgld(gradient).step
    return lambda key, position, rows: step(key, position, rows, 3e-5)


def sghmc(gradient):
    step = blackjax.sghmc(gradient, num_integration_steps=10).step
    return lambda key, position, rows: step(key, position, rows, 1e-3)


@pytest.mark.parametrize("sampler", [sgld, pytest.param(sghmc, marks=pytest.mark.slow)])
def test_stochastic_gradients_with_minibatches_of_a_loader(sampler, tmp_path, monkeypatch):
    """The state of the feed is in the carry, so a run that was stopped has the same batches."""

    def log_prior(position):
        return stats.norm.logpdf(position["mu"], 0, 10)

    def log_likelihood(position, row):
        return stats.norm.logpdf(row["x"], position["mu"], 0.5)

    gradient = blackjax.sgmcmc.gradients.grad_estimator(log_prior, log_likelihood, len(DATA))
    draw = sampler(gradient)
    loader = js.Loader({"x": np.asarray(DATA)}, batch_size=40, seed=1)
    with js.feed(loader) as (init_batch, next_batch, _):

        @jax.vmap
        def one_step(carry):
            key, feed, position = carry
            key, now = jax.random.split(key)
            feed, batch = next_batch(feed)
            position = draw(now, position, batch.arrays)
            return (key, feed, position), position

        def step(carry, _):
            return one_step(carry)

        def sample(collector):
            keys = jax.random.split(jax.random.key(2), CHAINS)
            carry = keys, jax.vmap(init_batch)(keys), {"mu": jnp.full(CHAINS, MEAN)}
            return js.scan(
                step, carry, length=1500, burn_in=100, chains=CHAINS, collector=collector,
                checkpoint_every=200, buffer_draws=100, resume=True,
            )  # fmt: skip

        # However busy the machine is, a checkpoint is there to go on from.
        monkeypatch.setattr(recorder, "CHECKPOINT_SHARE", 1e9)
        with stopped_after(5), pytest.raises(Stopped):
            sample(js.HDF5Collector(tmp_path / "run.h5"))
        _, run = sample(js.HDF5Collector(tmp_path / "run.h5"))
        _, whole = sample(js.MemoryCollector())

    mu = run.samples["mu"][:]
    assert mu.shape == (CHAINS, 1400)
    assert abs(mu.mean() - MEAN) < 0.3 * STANDARD_ERROR
    assert 0.8 < mu.std() / STANDARD_ERROR < 1.3
    assert_same(run.samples, whole.samples)


def test_hmc_in_a_loop_of_ones_own_that_keeps_accepted_draws():
    """Lanes of a `vmap` are chains, and each keeps as many draws as it accepts."""
    hmc = blackjax.hmc(log_density, 0.02, inverse_mass_matrix=jnp.ones(2), num_integration_steps=5)
    init_save, save, postprocess_save = js.save(buffer_draws=16)

    def chain(key):
        begin_key, key = jax.random.split(key)
        state = hmc.init(first_position(begin_key))
        saving = init_save(state.position)

        def step(carry, key):
            saving, state = carry
            state, info = hmc.step(key, state)
            saving, _ = save(saving, info.is_accepted, state.position)
            return (saving, state), (info.is_accepted, state.position)

        (saving, _), steps = jax.lax.scan(step, (saving, state), jax.random.split(key, 100))
        return saving, steps

    saving, (accepted, positions) = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(3), 3))
    saved = postprocess_save(saving)
    assert saved["sample_count"].tolist() == accepted.sum(1).tolist()
    assert len(set(saved["sample_count"].tolist())) > 1
    for c, n in enumerate(saved["sample_count"]):
        assert same(saved["samples"]["mu"][c, :n], positions["mu"][c][accepted[c]])
