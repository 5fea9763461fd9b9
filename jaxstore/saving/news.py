"""What newly committed in a run, and what a follower gets next: data only, nothing is read.

Owned here: the record that `Run.follow` yields, and which draws go into the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, PyTree

NEWS_BYTES = 64 * 2**20  # of all leaves, in one `News`; a single draw may be larger


@dataclass(frozen=True, slots=True)
class News:
    """Draws that committed since the last news, as numbers and as of which commit."""

    samples: PyTree  # arrays (chain, n_new, ...), in the structure of `run.samples`
    iteration: Int64[np.ndarray, "chain n_new"]  # the step at which each draw was taken
    chains: tuple[int, ...]  # numbers of the chains in it, all of them but where some came later
    first_draw: int  # index of the first of these draws on the draw axis of the run
    sample_count: Int64[np.ndarray, " chain"]  # draws of each chain of the run, committed by then
    state: str  # "running", "complete" or "interrupted"
    committed_at: str  # ISO 8601, UTC

    @property
    def n_new(self) -> int:
        """Draws of each chain in it."""
        return self.iteration.shape[1]

    def __repr__(self) -> str:
        chains = f"{len(self.chains)} chain" + "s" * (len(self.chains) != 1)
        stop = self.first_draw + self.n_new
        return f"<News draws {self.first_draw:,} to {stop:,} of {chains}, {self.state}>"


@dataclass(frozen=True, slots=True)
class Place:
    """How far chains that began together were handed out."""

    chains: tuple[int, ...]
    draw: int  # of each of them; those before it were


@dataclass(frozen=True, slots=True)
class Cut:
    """Which draws come next."""

    chains: tuple[int, ...]
    start: int
    stop: int  # beyond the end of a chain it is padded, as in `run.samples`


def places_of(
    places: tuple[Place, ...], draws: tuple[int, ...], *, wanted: int, is_live: bool
) -> tuple[Place, ...]:
    """The places, and one more for chains that are new; they begin at their first draw.

    Args:
        places: Known so far.
        draws: Of each chain, as committed.
        wanted: Chains that belong together from the beginning; 0 where that is not known.
        is_live: Whether more may come, so that it is worth waiting for all of `wanted`.

    >>> places_of((), (8, 8), wanted=4, is_live=True)
    ()
    >>> places_of((Place((0, 1), 8),), (8, 8, 0), wanted=2, is_live=True)[1]
    Place(chains=(2,), draw=0)
    """
    known = sum(len(place.chains) for place in places)
    if len(draws) <= known or (is_live and len(draws) < wanted):
        return places
    return (*places, Place(tuple(range(known, len(draws))), 0))


def cut_of(place: Place, draws: tuple[int, ...], *, is_live: bool, most_draws: int) -> Cut | None:
    """The next draws of chains that began together, None where there are none yet.

    Rectangular: up to the shortest chain while the run is live, else up to the longest. Counts
    that went back, since a run was cut to its checkpoint, give nothing until they are beyond.

    >>> cut_of(Place((0, 1), 2), (5, 3), is_live=True, most_draws=10)
    Cut(chains=(0, 1), start=2, stop=3)
    >>> cut_of(Place((0, 1), 3), (5, 3), is_live=False, most_draws=10)
    Cut(chains=(0, 1), start=3, stop=5)
    >>> cut_of(Place((0, 1), 3), (2, 2), is_live=True, most_draws=10)
    """
    counts = [draws[chain] if chain < len(draws) else 0 for chain in place.chains]
    there = min(counts) if is_live else max(counts)
    if there <= place.draw:
        return None
    return Cut(place.chains, place.draw, min(there, place.draw + most_draws))


def advanced(places: tuple[Place, ...], cut: Cut) -> tuple[Place, ...]:
    """The places after a cut was handed out."""
    return tuple(
        replace(place, draw=cut.stop) if place.chains == cut.chains else place for place in places
    )
