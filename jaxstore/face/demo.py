"""`jaxstore demo`: the three verbs on real data, in a directory that may be looked at afterwards.

Owned here: the story. Each verb has a module of its own, to be read as an example: `demo_sampling`,
`demo_predictive` and `demo_surrogate`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import arviz
import numpy as np
import xarray

from jaxstore import find, open_run
from jaxstore.errors import MismatchError
from jaxstore.face.demo_model import FEATURES, SOURCE, Patients, load_patients
from jaxstore.face.demo_picture import draw_predictive, draw_surrogate
from jaxstore.face.demo_places import Places, make_room, places_in
from jaxstore.face.demo_predictive import predict
from jaxstore.face.demo_sampling import CHAINS, draws_in, sample
from jaxstore.face.demo_surrogate import hold_out, r_squared, train
from jaxstore.face.picture import draw_run, write_picture
from jaxstore.stores.results import DONE

COLUMNS = ["mean", "sd", "r_hat", "ess_bulk", "ess_tail"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much the demo does; these take about a minute on two cores, most of it to compile."""

    warm_up_steps: int = 1000
    draws: int = 5000  # of each chain
    training_steps: int = 2000


def run_demo(directory: Path, *, is_fresh: bool, sizes: Sizes = Sizes()) -> None:
    """Save, process and load, telling what happens; what an earlier call did is not done again.

    Raises:
        ExistsError: Something is in the directory that the demo did not make.
        MismatchError: An earlier call was that of another version or other sizes.
    """
    begun = time.monotonic()
    places = places_in(directory)
    make_room(places, is_fresh=is_fresh)
    patients = load_patients()
    print(f"Data     {SOURCE}")
    print(f"         {len(patients.y)} patients, {len(FEATURES)} measurements, one outcome")
    print("Model    robust regression, all variables standardised; tau shrinks the slopes")
    was_complete = draws_in(places.training) == sizes.training_steps
    try:
        save(patients, places, sizes)
        process(patients, places, sizes)
        load(places, sizes)
    except MismatchError as error:
        anew = f"jaxstore demo --dir {directory} --fresh"
        raise MismatchError(f"{error}\nTo begin the demo anew: {anew}") from error
    print(f"\nDone in {time.monotonic() - begun:.0f} s.", end=" ")
    if was_complete:
        print(f"It was complete already. Begin anew with: jaxstore demo --dir {directory} --fresh")
    else:
        print("The same command again goes on after Ctrl-C, and finds all of this when complete.")
    print(f"\n{what_next(places)}")


def save(patients: Patients, places: Places, sizes: Sizes) -> None:
    """Sample into a store, then summarise and draw what lies there."""
    print(f"\nSave     {CHAINS} chains of BlackJAX NUTS in one program, into {places.run}")
    tell(draws_in(places.run), sizes.draws, "draws of each chain")
    sample(patients, places.run, warm_up_steps=sizes.warm_up_steps, draws=sizes.draws)
    print(f"         from the disk: xarray.open_datatree({str(places.run)!r}), then ArviZ\n")
    print(summary_of(places.run), flush=True)
    with open_run(places.run) as run:
        write_picture(draw_run(run, max_vars=len(FEATURES) + 3), places.posterior_png)


def process(patients: Patients, places: Places, sizes: Sizes) -> None:
    """Apply functions of one draw, then of one patient, and tell what they say."""
    print(f"\nProcess  new outcomes of all patients for each draw, into {places.predictive}")
    tell(items_in(places), sizes.draws, "draws")
    checked, explained = predict(places.run, places.predictive, patients)
    inside, share = np.mean(checked["is_inside"]), np.mean(explained["share"])
    print(f"         {100 * inside:.0f} % of the patients lie within their 90 % interval;")
    print(f"         the measurements explain {100 * share:.0f} % of the variance", flush=True)
    write_picture(draw_predictive(checked, patients), places.predictive_png)


def load(places: Places, sizes: Sizes) -> None:
    """Train on batches of the stored draws, and try the network on chunks it never saw."""
    print("\nLoad     shuffled batches of the stored draws train a Flax network: from parameters")
    print(f"         to log density; its losses go into {places.training}")
    tell(draws_in(places.training), sizes.training_steps, "steps")
    scale, params = train(places.run, places.training, steps=sizes.training_steps)
    held = hold_out(places.run, scale, params)
    network, linear = r_squared(held, held.surrogate), r_squared(held, held.linear)
    print(f"         R\N{SUPERSCRIPT TWO} on {len(held.lp):,} held-out draws: ", end="")
    print(f"network {network:.3f}, linear fit {linear:.3f}", flush=True)
    with open_run(places.training) as run:
        losses = run.samples["loss"][0]
    write_picture(draw_surrogate(losses, held), places.surrogate_png)


def tell(done: int, total: int, unit: str) -> None:
    """Say what an earlier call has left."""
    if done == total:
        print(f"         all {total:,} {unit} are there already", flush=True)
    elif done:
        print(f"         goes on: {done:,} of {total:,} {unit} are there", flush=True)
    else:
        print(f"         {total:,} {unit} ...", flush=True)


def items_in(places: Places) -> int:
    """Draws for which new outcomes are there."""
    for result in find(places.predictive, name="replicate", source=f"{places.run}:/posterior/beta"):
        units = result.manifest.units
        return sum(
            len(units.items(unit)) for unit in np.flatnonzero(result.status == DONE).tolist()
        )
    return 0


def summary_of(path: Path) -> str:
    """Mean, sd, R-hat and ESS of what lies on disk, a line per parameter."""
    with xarray.open_datatree(path, engine="zarr") as tree:
        table = arviz.summary(tree, round_to=3)[COLUMNS]
    formats = {"r_hat": "{:.3f}", "ess_bulk": "{:,.0f}", "ess_tail": "{:,.0f}"}
    return str(table.to_string(formatters={name: f.format for name, f in formats.items()}))


def what_next(places: Places) -> str:
    """Where things are, and what a reader may type now."""
    run = in_the_shell(os.environ.get("UV"))
    return f"""\
Pictures: {places.posterior_png}, {places.predictive_png}, {places.surrogate_png}

Next, in the shell:
  {run}jaxstore info {places.run}
  {run}jaxstore info {places.predictive}
  {run}jaxstore verify {places.run}
  {run}jaxstore plot {places.training}
  {run}jaxstore watch {places.run}

and in Python:
  import jaxstore as js
  run = js.open_run({str(places.run)!r})
  beta = run.samples["posterior"]["beta"][:, -100:]  # (chain, draw, feature)
  result = js.find({str(places.predictive)!r}, name="interval")[0]
  result["low"][:5], result["high"][:5]  # of the first five patients
  loader = js.Loader(run, ["posterior/beta", "sample_stats/lp"], batch_size=64)
  batch = next(iter(loader))"""


def in_the_shell(uv: str | None) -> str:
    """What goes before a command where `uv run` started this one, and nothing is on the path.

    >>> in_the_shell(None), in_the_shell("/opt/uv")
    ('', '/opt/uv run --no-dev --extra demo ')
    """
    if uv is None:
        return ""
    here = os.path.relpath(uv)
    return f"{uv if here.startswith(os.pardir) else here} run --no-dev --extra demo "
