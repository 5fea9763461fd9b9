"""The demo's model: which of ten measurements say how diabetes goes on within a year.

Owned here: the data, the log density, and which names draws have. Sampling it is `demo`'s.

The data are those of Efron, Hastie, Johnstone and Tibshirani (2004), "Least angle regression",
https://doi.org/10.1214/009053604000000067, as scikit-learn ships them: 442 patients, ten
measurements at the start, and a score of progression after a year.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import stats
from jaxtyping import Array, Float
from sklearn.datasets import load_diabetes

SOURCE = "the diabetes data of Efron et al. (2004), shipped with scikit-learn"
# In the order of the columns of `load_diabetes`, which calls the last six s1 to s6.
FEATURES = (
    "age", "sex", "bmi", "blood pressure", "cholesterol", "LDL", "HDL", "cholesterol/HDL",
    "log triglycerides", "glucose",
)  # fmt: skip
DEGREES_OF_FREEDOM = 5.0  # few enough that an odd patient moves the fit little


class Patients(NamedTuple):
    """Measurements and outcome, each standardised."""

    x: Float[Array, "patient feature"]
    y: Float[Array, " patient"]


class Position(NamedTuple):
    """Where a chain is, all reals."""

    intercept: Array  # shape=(), float32
    beta: Array  # shape=(feature,), float32
    log_sigma: Array  # shape=(), float32
    log_tau: Array  # shape=(), float32


def load_patients() -> Patients:
    """The data, from the files of scikit-learn."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    return Patients(*(jnp.asarray((a - a.mean(0)) / np.std(a, 0), jnp.float32) for a in (x, y)))


def log_density(patients: Patients) -> Callable[[Position], Array]:
    """Log posterior of y ~ StudentT(intercept + x beta, sigma), beta ~ Normal(0, tau)."""

    def of_position(p: Position) -> Array:
        sigma, tau = jnp.exp(p.log_sigma), jnp.exp(p.log_tau)
        mean = p.intercept + patients.x @ p.beta
        prior = stats.norm.logpdf(p.intercept) + stats.norm.logpdf(p.beta, scale=tau).sum()
        # Half-normal scales; the last two terms are the Jacobian of the logarithms.
        prior += stats.norm.logpdf(sigma) + stats.norm.logpdf(tau) + p.log_sigma + p.log_tau
        return prior + stats.t.logpdf(patients.y, DEGREES_OF_FREEDOM, mean, sigma).sum()

    return of_position


def first_position(key: Array) -> Position:
    """A random place to begin a chain at."""
    keys = jax.random.split(key, 4)
    shapes = ((), (len(FEATURES),), (), ())
    return Position(
        *(jax.random.uniform(k, s, minval=-1) for k, s in zip(keys, shapes, strict=True))
    )


def parameters_of(position: Position) -> dict[str, Array]:
    """A position as a reader wants it: scales as themselves."""
    return {
        "intercept": position.intercept,
        "beta": position.beta,
        "sigma": jnp.exp(position.log_sigma),
        "tau": jnp.exp(position.log_tau),
    }
