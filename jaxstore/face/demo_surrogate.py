"""The demo's third part, load: stored draws train a small network.

Owned here: the network, which learns the log density from the parameters; its training, a run like
any other; and how good it is on chunks that it never saw, beside a linear fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jaxtyping import Array, Float, PyTree

from jaxstore import (
    Batch,
    Loader,
    SplitManifest,
    ZarrCollector,
    feed,
    open_geometries,
    scan,
    split_by_chunk,
)
from jaxstore.face.demo_places import MADE_BY

SEED = 64
BATCH_DRAWS = 32  # of all chains, so four times as many rows of the network
LEARNING_RATE = 3e-3  # at the beginning
CHECKPOINT_EVERY = 500  # steps
VIEWS = {
    "intercept": "posterior/intercept",
    "beta": "posterior/beta",
    "sigma": "posterior/sigma",
    "tau": "posterior/tau",
    "lp": "sample_stats/lp",
}

Rows = Float[Array, "row parameter"]


class Surrogate(linen.Module):
    """The log density of standardised parameters, itself standardised."""

    @linen.compact
    def __call__(self, z: Rows) -> Float[Array, " row"]:
        """Of each row."""
        for width in (64, 64):
            z = linen.silu(linen.Dense(width)(z))
        return linen.Dense(1)(z)[:, 0]


class Scale(NamedTuple):
    """What one pass over the training draws tells: how they spread, and the best linear fit."""

    centre: np.ndarray[Any, Any]
    whitening: np.ndarray[Any, Any]
    lp_mean: float
    lp_sd: float
    slopes: np.ndarray[Any, Any]


class Held(NamedTuple):
    """The held-out rows, and what is predicted for them."""

    lp: np.ndarray[Any, Any]
    surrogate: np.ndarray[Any, Any]
    linear: np.ndarray[Any, Any]


def split_of(run_path: Path) -> SplitManifest:
    """Which chunks train, and which are held out."""
    lp = open_geometries(run_path)["sample_stats/lp"]
    return split_by_chunk(lp, fractions=(0.8, 0.2), contiguous=False, seed=SEED)


def load(run_path: Path, split: str, **how: Any) -> Loader:
    """The draws of a split as batches."""
    manifest = split_of(run_path)
    return Loader(
        run_path, VIEWS, batch_size=BATCH_DRAWS, split=split, manifest=manifest, seed=SEED, **how
    )


def parameters(batch: Batch) -> Rows:
    """What the network sees: a row for each draw of each chain."""
    single = [batch["intercept"], jnp.log(batch["sigma"]), jnp.log(batch["tau"])]
    together = jnp.concatenate([batch["beta"], jnp.stack(single, -1)], -1)
    return together.reshape(-1, together.shape[-1])


def measure(run_path: Path) -> Scale:
    """Moments of the training draws, by one pass of a plain loop over batches."""
    moments: Any = 0.0
    with load(run_path, "train", shuffle=False) as loader:
        for batch in loader:
            lp = np.asarray(batch["lp"], np.float64)
            theta = np.asarray(parameters(batch), np.float64)
            rows = np.column_stack([np.ones(lp.size), theta, lp.ravel()])
            rows = rows[np.repeat(batch.mask, lp.shape[1])]  # without what fills the last batch up
            moments += rows.T @ rows
    moments /= moments[0, 0]
    mean = moments[0]
    covariance = moments - np.outer(mean, mean)
    inner = slice(1, -1)
    return Scale(
        centre=mean[inner],
        whitening=np.linalg.inv(np.linalg.cholesky(covariance[inner, inner])).T,
        lp_mean=mean[-1],
        lp_sd=np.sqrt(covariance[-1, -1]),
        slopes=np.linalg.solve(covariance[inner, inner], covariance[inner, -1]),
    )


def train(run_path: Path, path: Path, *, steps: int) -> tuple[Scale, PyTree]:
    """Train on shuffled batches inside `scan`; how far it is lies in the checkpoints of its run."""
    scale = measure(run_path)
    params = Surrogate().init(jax.random.key(SEED), jnp.zeros((1, len(scale.centre))))
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    collector = ZarrCollector(path, settings={"made_by": MADE_BY, "learns": "the log density"})
    with (
        load(run_path, "train", remainder="drop") as loader,
        feed(loader) as (init_batch, next_batch, _),
        collector,
    ):

        def step(carry: PyTree, _: None) -> tuple[PyTree, PyTree]:
            state, params, momenta = carry
            state, batch = next_batch(state)
            loss, slopes = jax.value_and_grad(loss_of)(params, batch, scale)
            updates, momenta = optimizer.update(slopes, momenta)
            return (state, optax.apply_updates(params, updates), momenta), {"loss": loss}

        first = init_batch(), params, optimizer.init(params)
        (_, params, _), _ = scan(
            step,
            first,
            length=steps,
            collector=collector,
            checkpoint_every=CHECKPOINT_EVERY,
            resume=True,
        )
    return scale, params


def loss_of(params: PyTree, batch: Batch, scale: Scale) -> Array:
    """Mean squared error in units of the spread; 1 is that of a constant."""
    lp = (batch["lp"].reshape(-1) - scale.lp_mean) / scale.lp_sd
    return jnp.mean((predict(params, parameters(batch), scale) - lp) ** 2)


def predict(params: PyTree, theta: Rows, scale: Scale) -> Float[Array, " row"]:
    """The log density as the network has it, standardised."""
    network: Any = Surrogate()
    return network.apply(params, (theta - scale.centre) @ scale.whitening)


def hold_out(run_path: Path, scale: Scale, params: PyTree) -> Held:
    """Predict the draws of the chunks that trained nothing."""
    parts: list[Held] = []
    apply = jax.jit(predict)
    with load(run_path, "val", shuffle=False) as loader:
        for batch in loader:
            theta, is_row = parameters(batch), np.repeat(batch.mask, batch["lp"].shape[1])
            lp = np.asarray(batch["lp"]).ravel()
            surrogate = scale.lp_mean + scale.lp_sd * np.asarray(apply(params, theta, scale))
            linear = scale.lp_mean + (np.asarray(theta) - scale.centre) @ scale.slopes
            parts.append(Held(lp[is_row], surrogate[is_row], linear[is_row]))
    return Held(*map(np.concatenate, zip(*parts, strict=True)))


def r_squared(held: Held, predicted: np.ndarray[Any, Any]) -> float:
    """Share of the variance of held-out log densities that is predicted."""
    return float(1 - np.mean((held.lp - predicted) ** 2) / np.var(held.lp))
