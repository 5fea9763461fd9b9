"""The demo's first part, save: NUTS chains stream into a Zarr store while they run.

Owned here: warm-up, the sampler's step, and the one call of `scan`. The model is `demo_model`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import blackjax
import jax
from jaxtyping import Array, PyTree

from jaxstore import FormatError, MissingError, ZarrCollector, open_run, scan
from jaxstore.face.demo_model import (
    FEATURES,
    SOURCE,
    Patients,
    Position,
    first_position,
    log_density,
    parameters_of,
)
from jaxstore.face.demo_places import MADE_BY
from jaxstore.interrupt import listening

CHAINS = 4
SEED = 2004
CHUNK_DRAWS = 100  # what is dealt to training and validation later are whole chunks
CHECKPOINT_EVERY = 500  # draws; a kill costs no more than these


class ChainState(NamedTuple):
    """What a chain of the sampler carries."""

    key: Array  # shape=(), typed key
    nuts: Any
    settings: dict[str, Any]  # step size and inverse mass matrix of this chain


def sample(patients: Patients, path: Path, *, warm_up_steps: int, draws: int) -> None:
    """Sample the posterior into a Zarr store; an earlier call that was stopped is gone on with."""
    density = log_density(patients)
    keys = jax.random.split(jax.random.key(SEED), CHAINS)
    ready = jax.jit(jax.vmap(warm_up(density, warm_up_steps)))
    with listening():  # while a program compiles, Python may lose a Ctrl-C
        # A run that goes on does so from its checkpoint, and needs the shape of the first states.
        states = jax.eval_shape(ready, keys) if draws_in(path) else ready(keys)
    step = jax.vmap(one_step(density))
    collector = ZarrCollector(
        path,
        group=None,  # the top level of a draw names the groups, as ArviZ calls them
        dims={"posterior/beta": ["feature"]},
        coords={"feature": list(FEATURES)},
        settings={"made_by": MADE_BY, "data": SOURCE, "sampler": "BlackJAX NUTS", "seed": SEED},
        chunk_draws=CHUNK_DRAWS,
    )
    with collector:
        scan(
            lambda states, _: step(states),
            states,
            length=draws,
            chains=CHAINS,
            collector=collector,
            checkpoint_every=CHECKPOINT_EVERY,
            resume=True,
        )


def draws_in(path: Path) -> int:
    """Draws of each chain that a run has committed; 0 where none has begun."""
    try:
        with open_run(path) as run:
            return int(min(run.sample_count, default=0))
    except (MissingError, FormatError):  # nothing is there, or a kill came before the first commit
        return 0


def warm_up(density: Callable[[Position], Array], steps: int) -> Callable[[Array], ChainState]:
    """From a key to a chain that has found the posterior, with settings of its own."""
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        density,
        target_acceptance_rate=0.9,
        adaptation_info_fn=lambda *_: None,
    )

    def one_chain(key: Array) -> ChainState:
        begin_key, run_key, key = jax.random.split(key, 3)
        found, _ = adaptation.run(run_key, first_position(begin_key), steps)
        return ChainState(key, found.state, found.parameters)

    return one_chain


def one_step(
    density: Callable[[Position], Array],
) -> Callable[[ChainState], tuple[ChainState, PyTree]]:
    """A step of NUTS, and what is stored of it."""
    kernel = blackjax.nuts.build_kernel()

    def step(state: ChainState) -> tuple[ChainState, PyTree]:
        key, now = jax.random.split(state.key)
        nuts, info = kernel(now, state.nuts, density, **state.settings)
        statistics = {
            "lp": nuts.logdensity,
            "energy": info.energy,
            "acceptance_rate": info.acceptance_rate,
            "diverging": info.is_divergent,
            "n_steps": info.num_integration_steps,
        }
        draw = {"posterior": parameters_of(nuts.position), "sample_stats": statistics}
        return ChainState(key, nuts, state.settings), draw

    return step
