"""The demo's second part, process: what the posterior says of patients, draw by draw.

Owned here: three kernels, each a function of one item, and the calls of `process` that apply them.
What is computed once is found again, and what was interrupted goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxstore import Result, open_run, process
from jaxstore.face.demo_model import DEGREES_OF_FREEDOM, Patients
from jaxstore.face.demo_places import MADE_BY

SEED = 442
CHUNK_DRAWS = 250  # computed and marked as done together
INTERVAL = (0.05, 0.5, 0.95)  # of the predictive distribution, with the median

Draw = dict[str, Array]


def predict(run_path: Path, target: Path, patients: Patients) -> tuple[Result, Result]:
    """New outcomes of all patients for each draw, then what they say.

    Returns:
        Of each patient the interval and whether the outcome lies in it; and the share of variance
        explained, averaged over draws.
    """
    # A row of a run is one draw of all chains, so (chain, feature) of beta and (chain,) of others.
    draws: dict[str, Any] = {
        name: f"{run_path}:/posterior/{name}" for name in ("intercept", "beta", "sigma")
    }
    with open_run(run_path) as run:
        numbers = np.arange(run.sample_count.min(), dtype=np.int32)
    attrs = {"made_by": MADE_BY}
    new = process(
        replicate,
        {**draws, "number": numbers},  # several sources in step, one of them in memory
        target,
        params={"key": jax.random.key(SEED), "x": patients.x},
        chunks=CHUNK_DRAWS,
        dims={"y": ["chain", "patient"]},
        attrs=attrs,
    )
    # The same stored array again, now item by item along the patients.
    outcomes = {"new": f"{new.location}/y", "observed": patients.y}
    checked = process(interval, outcomes, target, axis={"new": 2, "observed": 0}, attrs=attrs)
    explained = process(
        share_explained, draws, target, params={"x": patients.x}, reduce="mean", attrs=attrs
    )
    return checked, explained


def replicate(draw: Draw, *, key: Array, x: Array) -> Draw:
    """Outcomes of all patients as a draw would have them, (chain, patient).

    The key is that of the number of the draw, so interruptions and batches change nothing.
    """
    mean = expected(draw, x)
    key = jax.random.fold_in(key, draw["number"])
    noise = jax.random.t(key, DEGREES_OF_FREEDOM, mean.shape)
    return {"y": mean + draw["sigma"][:, None] * noise}


def interval(patient: Draw) -> Draw:
    """The 90 % interval of one patient's new outcomes (draw, chain), and the outcome that came."""
    low, middle, high = jnp.quantile(patient["new"], jnp.array(INTERVAL))
    is_inside = (low <= patient["observed"]) & (patient["observed"] <= high)
    return {"low": low, "middle": middle, "high": high, "is_inside": is_inside}


def share_explained(draw: Draw, *, x: Array) -> Draw:
    """Explained share of the variance, of each chain (Gelman, Goodrich, Gabry and Vehtari, 2019).

    https://doi.org/10.1080/00031305.2018.1549100
    """
    explained = jnp.var(expected(draw, x), axis=1)
    noise = draw["sigma"] ** 2 * DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2)
    return {"share": explained / (explained + noise)}


def expected(draw: Draw, x: Array) -> Array:
    """Mean outcome of all patients, (chain, patient)."""
    return draw["intercept"][:, None] + draw["beta"] @ x.T
