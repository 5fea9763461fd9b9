"""A NumPyro model whose sampler streams to disk, written as its users would write it."""

import arviz
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from collecting import assert_same
from numpyro.infer import HMC, NUTS
from resuming import Stopped, stopped_after

import jaxstore as js
from jaxstore.saving import recorder

SCHOOLS = ["Choate", "Deerfield", "Andover", "Exeter", "Hotchkiss", "Lawrenceville",
           "St. Paul's", "Mt. Hermon"]  # fmt: skip
EFFECT = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERROR = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])
CHAINS, WARM_UP, DRAWS = 4, 150, 250


def eight_schools(error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(error)):
        z = numpyro.sample("z", dist.Normal())
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("effect", dist.Normal(theta, error), obs=effect)


@pytest.mark.parametrize("sampler", [HMC, pytest.param(NUTS, marks=pytest.mark.slow)])
def test_a_sampler_whose_whole_state_is_the_carry(sampler, tmp_path, monkeypatch):
    """Stopped while it warms up and resumed, with the bits of a run that was not."""
    kernel = sampler(eight_schools, target_accept_prob=0.9)
    data = {"error": ERROR, "effect": EFFECT}
    keys = jax.random.split(jax.random.PRNGKey(0), CHAINS)
    first = kernel.init(keys, WARM_UP, None, (), data)
    constrained = jax.vmap(kernel.postprocess_fn((), data))  # with deterministic sites

    def step(state, _):
        state = kernel.sample(state, (), data)  # of all chains, as there were several keys
        statistics = {
            "lp": -state.potential_energy,
            "energy": state.energy,
            "acceptance_rate": state.accept_prob,
            "diverging": state.diverging,
            "n_steps": state.num_steps,
        }
        return state, {"posterior": constrained(state.z), "sample_stats": statistics}

    def sample(make, where=None):
        collector = make(
            where,
            group=None,
            dims={"posterior/theta": ["school"], "posterior/z": ["school"]},
            coords={"school": SCHOOLS},
        )
        return js.scan(
            step, first, length=WARM_UP + DRAWS, chains=CHAINS, collector=collector,
            checkpoint_every=10, buffer_draws=25, resume=True,
        )  # fmt: skip

    # However busy the machine is, a checkpoint is there to go on from.
    monkeypatch.setattr(recorder, "CHECKPOINT_SHARE", 1e9)
    with stopped_after(8), pytest.raises(Stopped):
        sample(js.ZarrCollector, tmp_path / "run.zarr")
    assert js.open_run(tmp_path / "run.zarr").sample_count.max() < WARM_UP
    state, _ = sample(js.ZarrCollector, tmp_path / "run.zarr")

    run = js.open_run(tmp_path / "run.zarr")
    wanted_state, wanted = sample(js.MemoryCollector)
    assert_same(state, wanted_state)
    assert_same(run.samples, wanted.samples)

    tree = run.to_datatree().isel(draw=slice(WARM_UP, None))
    summary = arviz.summary(tree, var_names=["mu", "tau", "theta"], round_to="none")
    assert summary.index[:3].tolist() == ["mu", "tau", "theta[Choate]"]
    assert summary["r_hat"].max() < 1.1
    assert abs(summary["mean"]["mu"] - 4.4) < 1.5
