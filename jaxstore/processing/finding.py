"""Results that are there already.

Owned here: looking through the results of a place, by name, source, parameters or computation.
Nothing is written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxstore.errors import FormatError
from jaxstore.names import encode_key
from jaxstore.processing.beside import address_of
from jaxstore.processing.manifest import Manifest, State
from jaxstore.processing.params import encode_params
from jaxstore.processing.result import Result
from jaxstore.processing.same import Computation, differences
from jaxstore.stores.results import ResultPlace
from jaxstore.stores.results_place import places_below, results_at

_log = logging.getLogger("jaxstore")


def find(
    where: Any,
    *,
    name: str | None = None,
    source: Any = None,
    params: Mapping[str, Any] | None = None,
    state: State | None = None,
) -> list[Result]:
    """The results of a place and of the groups below it, outer ones first; in each oldest first.

    Args:
        where: A path or URL, with ":/group" for a group inside; or an open handle.
        name: Only those of a process of this name.
        source: Only those of this array, as it was given to `process`.
        params: Only those with exactly these parameters.
        state: Only "complete" or only "partial" ones.

    Raises:
        FormatError: There is no place for results.

    >>> find("nothing-there.zarr")
    []
    """
    address = None if source is None else address_of(source)
    wanted = None if params is None else encode_params(params).json
    return [
        Result(at, group)
        for _, at in places_below(results_at(where))
        for group, manifest in manifests(at)
        if (name is None or manifest.computation.name == name)
        and (address is None or address in manifest.computation.addresses)
        and (wanted is None or manifest.computation.params == wanted)
        and state in (None, manifest.state)
    ]


@dataclass(frozen=True, slots=True)
class Matches:
    """Results of the same computation, by name of their group; oldest first."""

    complete: tuple[str, ...]
    partial: tuple[str, ...]
    others: tuple[tuple[str, str], ...]  # groups of that source and name, and what differs


def matches(place: ResultPlace, wanted: Computation, stem: str) -> Matches:
    """The results of a place that are the same computation, and why others are not.

    Args:
        place: Where to look.
        wanted: What shall be computed.
        stem: Of names of groups: "raw-peak".
    """
    found: dict[str, list[str]] = {"complete": [], "partial": []}
    others: list[tuple[str, str]] = []
    for group, manifest in manifests(place):
        if manifest.computation.fingerprint == wanted.fingerprint:
            found[manifest.state].append(group)
        elif _stem(group) == stem:
            others.append((group, "; ".join(differences(manifest.computation, wanted))))
    return Matches(tuple(found["complete"]), tuple(found["partial"]), tuple(others))


def manifests(place: ResultPlace) -> Iterator[tuple[str, Manifest]]:
    """All results whose manifest can be read; of others a warning tells."""
    for group, found in place.manifests():
        try:
            yield group, Manifest.from_json(found, location=f"{place.location}/{group}")
        except FormatError as error:
            _log.warning("%s", error)


def stem_of(leaf: str, name: str) -> str:
    """How the names of the groups of a computation begin.

    >>> stem_of("raw", "peak")
    'raw-peak'
    """
    return encode_key(f"{leaf}-{name}")


def next_name(found: Matches, stem: str) -> str:
    """A name after those that were found; of what cannot be read the place knows.

    >>> next_name(Matches(("raw-peak_000",), (), (("raw-peak_004", "params differ"),)), "raw-peak")
    'raw-peak_005'
    """
    groups = [*found.complete, *found.partial, *(group for group, _ in found.others)]
    numbers = [
        int(group.rpartition("_")[2])
        for group in groups
        if _stem(group) == stem and group.rpartition("_")[2].isdigit()
    ]
    return f"{stem}_{max(numbers, default=-1) + 1:03d}"


def following(name: str) -> str:
    """The next name after one that is taken by something else.

    >>> following("raw-peak_009")
    'raw-peak_010'
    """
    stem, _, number = name.rpartition("_")
    return f"{stem}_{int(number) + 1:03d}"


def _stem(group: str) -> str:
    return group.rpartition("_")[0]
