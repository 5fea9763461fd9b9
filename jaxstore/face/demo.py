"""`jaxstore demo`: sample a posterior on real data into a Zarr store, and look at what lies there.

Owned here: the story from data to picture, and the directory it happens in. The model is `model`'s,
the picture `picture`'s.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import arviz
import blackjax
import jax
import xarray
from jaxtyping import Array, PyTree

from jaxstore import ZarrCollector, open_run, scan
from jaxstore.errors import ExistsError
from jaxstore.face.model import (
    FEATURES,
    SOURCE,
    Position,
    first_position,
    load_patients,
    log_density,
    parameters_of,
)
from jaxstore.face.picture import draw_run, refuse_foreign, write_picture
from jaxstore.stores.location import open_store
from jaxstore.stores.run_format import MANIFEST

MADE_BY = "jaxstore demo"
# All that a demo run has at its top; with anything else in it, `--fresh` removes nothing.
OWN_ENTRIES = frozenset({"zarr.json", "posterior", "sample_stats"})
CHAINS = 4
WARM_UP_STEPS = 1000
DRAWS = 2000
SEED = 2004
COLUMNS = ["mean", "sd", "r_hat", "ess_bulk", "ess_tail"]


class ChainState(NamedTuple):
    """What a chain of the sampler carries."""

    key: Array  # shape=(), typed key
    nuts: Any
    settings: dict[str, Any]  # step size and inverse mass matrix of this chain


def run_demo(directory: Path, *, is_fresh: bool) -> None:
    """Sample, summarise and draw, telling what happens.

    Raises:
        ExistsError: The directory holds a run, and `is_fresh` is not set or it is not ours.
    """
    begun = time.monotonic()
    path, picture = directory / "run.zarr", directory / "posterior.png"
    refuse_foreign(picture)
    make_room(path, is_fresh=is_fresh)
    patients = load_patients()
    print(f"Data     {SOURCE}")
    print(f"         {len(patients.y)} patients, {len(FEATURES)} measurements, one outcome")
    print("Model    robust regression, all variables standardised; tau shrinks the slopes")
    print(f"Sampler  BlackJAX NUTS, {CHAINS} chains in one program\n")
    print(f"Adapting step sizes and mass matrices ({WARM_UP_STEPS:,} steps) ...", flush=True)
    density = log_density(patients)
    states = warm_up(density, jax.random.key(SEED))
    states.key.block_until_ready()  # so that the next line tells the truth
    print(f"Sampling {DRAWS:,} draws of each chain into {path} ...", flush=True)
    sample(density, states, path)
    print(f"\nFrom the disk: xarray.open_datatree({str(path)!r}), then ArviZ\n", flush=True)
    print(summary_of(path))
    with open_run(path) as run:
        write_picture(draw_run(run, max_vars=len(FEATURES) + 3), picture)
        print(f"\n{run.describe().splitlines()[0]}")
    print(f"picture at {picture}")
    print(f"\nDone in {time.monotonic() - begun:.0f} s.\n\n{what_next(path)}")


def make_room(path: Path, *, is_fresh: bool) -> None:
    """Remove an earlier demo run if asked to; refuse whatever else is there.

    Raises:
        ExistsError: Something is there that stays.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not is_own(path):
        raise ExistsError(
            f"{path} is there and the demo did not make it, or something was added to it. It "
            "stays as it is. Choose another directory: jaxstore demo --dir DIRECTORY"
        )
    if not is_fresh:
        raise ExistsError(
            f"{path} holds the run of an earlier demo. See it with: jaxstore info {path}\n"
            f"Replace it with: jaxstore demo --dir {path.parent} --fresh\n"
            "Or choose another directory: jaxstore demo --dir DIRECTORY"
        )
    shutil.rmtree(path)


def is_own(path: Path) -> bool:
    """Whether a path is a run that a demo made, and nothing was added to it."""
    if path.is_symlink() or not (path / "zarr.json").is_file():
        return False
    store = open_store(path)
    try:
        manifest = store.attrs().get(MANIFEST)
    finally:
        store.close()
    made_by = isinstance(manifest, dict) and manifest.get("settings", {}).get("made_by")
    return made_by == MADE_BY and {entry.name for entry in path.iterdir()} <= OWN_ENTRIES


def warm_up(density: Callable[[Position], Array], key: Array) -> ChainState:
    """Chains that have found the posterior, each with settings of its own."""
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        density,
        target_acceptance_rate=0.9,
        adaptation_info_fn=lambda *_: None,
    )

    def one_chain(key: Array) -> ChainState:
        begin_key, run_key, key = jax.random.split(key, 3)
        found, _ = adaptation.run(run_key, first_position(begin_key), WARM_UP_STEPS)
        return ChainState(key, found.state, found.parameters)

    states: ChainState = jax.jit(jax.vmap(one_chain))(jax.random.split(key, CHAINS))
    return states


def sample(density: Callable[[Position], Array], states: ChainState, path: Path) -> None:
    """Sample into a Zarr store, while the program runs."""
    kernel = blackjax.nuts.build_kernel()

    def one_step(state: ChainState) -> tuple[ChainState, PyTree]:
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

    collector = ZarrCollector(
        path,
        group=None,  # the top level of a draw names the groups, as ArviZ calls them
        dims={"posterior/beta": ["feature"]},
        coords={"feature": list(FEATURES)},
        settings={"made_by": MADE_BY, "data": SOURCE, "sampler": "BlackJAX NUTS", "seed": SEED},
    )
    with collector:
        scan(
            lambda states, _: jax.vmap(one_step)(states),
            states,
            length=DRAWS,
            chains=CHAINS,
            collector=collector,
        )


def summary_of(path: Path) -> str:
    """Mean, sd, R-hat and ESS of what lies on disk, a line per parameter."""
    with xarray.open_datatree(path, engine="zarr") as tree:
        table = arviz.summary(tree, round_to=3)[COLUMNS]
    whole = {"ess_bulk": "{:,.0f}".format, "ess_tail": "{:,.0f}".format}
    return str(table.to_string(formatters=whole))


def what_next(path: Path) -> str:
    """What a reader may type now."""
    return f"""\
Next, in the shell:
  jaxstore info {path}
  jaxstore plot {path} --group sample_stats -o statistics.png

and in Python:
  import jaxstore as js
  run = js.open_run({str(path)!r})
  beta = run.samples["posterior"]["beta"][:, -100:]  # (chain, draw, feature)"""
