"""Following a run while it is written: what newly committed, in order, nothing twice.

Owned here: when to look again, and when to stop. Which draws come next is told by `news`, what
counts by the commit record, and nothing is ever asked of the writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jaxstore.errors import BusyError, FormatError
from jaxstore.saving.news import NEWS_BYTES, Cut, News, Place, advanced, cut_of, places_of
from jaxstore.saving.run import Run
from jaxstore.saving.stored import StoredArray

BUSY_S = 60.0  # for which a store may be locked; a writer's commit takes far less
# A run that is cut back to a checkpoint takes away draws that this may just be reading.
MOST_FAILURES = 3


def follow(run: Run, *, poll_s: float, timeout_s: float | None, from_start: bool) -> Iterator[News]:
    """See `Run.follow`."""
    places = () if from_start else starts_of(run.refresh())
    heard_at, failures, is_live = time.monotonic(), 0, True
    while True:
        waited = time.monotonic() - heard_at
        try:
            # What has ended is handed out as it was, should it be resumed just now.
            run = run.refresh() if is_live else run
            places, cut = next_cut(run, places)
            news = None if cut is None else read_news(run, cut)
            is_there = cut is None or not is_cut_back(run, cut)
            is_live, failures = run.state == "running", 0
        except FormatError:
            failures += 1
            if failures > MOST_FAILURES or not is_live:
                raise
        except BusyError:
            if waited >= (BUSY_S if timeout_s is None else timeout_s):
                raise
        else:
            if news is not None and cut is not None and is_there:
                places = advanced(places, cut)
                yield news
                heard_at = time.monotonic()  # the caller may have taken its time
                continue
            if cut is None and not is_live:
                return
        if timeout_s is not None and waited >= timeout_s:
            return
        time.sleep(poll_s if timeout_s is None else min(poll_s, timeout_s - waited))


def starts_of(run: Run) -> tuple[Place, ...]:
    """Places behind all that is committed, as far as it would have been handed out."""
    draws, is_live = tuple(run.sample_count.tolist()), run.state == "running"
    places = places_of((), draws, wanted=chains_wanted(run), is_live=is_live)
    reach = min(draws, default=0) if is_live else max(draws, default=0)
    return tuple(replace(place, draw=reach) for place in places)


def next_cut(run: Run, places: tuple[Place, ...]) -> tuple[tuple[Place, ...], Cut | None]:
    """The places with new chains among them, and what comes next."""
    draws, is_live = tuple(run.sample_count.tolist()), run.state == "running"
    places = places_of(places, draws, wanted=chains_wanted(run), is_live=is_live)
    for place in places:
        draw_bytes = sum(leaf.leaf.draw_bytes for leaf in run.leaves) * len(place.chains)
        most = max(1, NEWS_BYTES // max(1, draw_bytes + 8 * len(place.chains)))
        cut = cut_of(place, draws, is_live=is_live, most_draws=most)
        if cut is not None:
            return places, cut
    return places, None


def chains_wanted(run: Run) -> int:
    """Chains that begin together, as far as the settings tell: `scan` writes them down."""
    chains = run.settings.get("chains")
    return chains if isinstance(chains, int) else 0


def read_news(run: Run, cut: Cut) -> News:
    """Read the draws of a cut."""

    def read(array: StoredArray) -> object:
        return array.of_chains(cut.chains)[:, cut.start : cut.stop]

    samples = run.unflatten([read(leaf) for leaf in run.leaves])
    return News(
        samples=samples,
        iteration=np.asarray(read(run.steps)),
        chains=cut.chains,
        first_draw=cut.start,
        sample_count=run.sample_count,
        state=run.state,
        committed_at=run.committed_at,
    )


def is_cut_back(run: Run, cut: Cut) -> bool:
    """Whether draws of a cut no longer count."""
    now = run.refresh().sample_count
    return any(n < min(cut.stop, was) for n, was in zip(now, run.sample_count, strict=False))
