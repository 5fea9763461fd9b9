"""Results of `js.process` at a path, as facts for machines and as text for people.

Owned here: which results a path means, all that lie in it or itself; and their rows in
`jaxstore info`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxstore.errors import FormatError, MissingError
from jaxstore.face.array_facts import row_of
from jaxstore.processing.finding import find
from jaxstore.processing.manifest import told_session
from jaxstore.processing.result import Result
from jaxstore.processing.same import shown
from jaxstore.stores.base import Json
from jaxstore.stores.results import DONE, FAILED, ResultPlace
from jaxstore.stores.results_place import places_below, results_at


def results_of(where: str) -> list[Result]:
    """The results in a place, at any depth, or the one that a path itself means."""
    if found := find(where):
        return found
    one = result_at(where)
    return [] if one is None else [one]


def result_at(where: str) -> Result | None:
    """The result that a path itself means, if it means one."""
    above, _, name = where.rstrip("/").rpartition("/")
    if above.endswith(":"):  # "data.h5:/raw-peak_000"
        above += "/"
    try:
        place = results_at(above or ".")
        return Result(place, name) if name in dict(place.manifests()) else None
    except (FormatError, MissingError):
        return None


def nested_results(where: str) -> list[tuple[str, ResultPlace, str]]:
    """Group, also as a place, and name of each result in a place, the outer groups first."""
    places = places_below(results_at(where))
    return [(group, at, name) for group, at in places for name, _ in at.manifests()]


def folders_of(results: Iterable[tuple[str, ResultPlace, str]]) -> tuple[str, ...]:
    """How the names of the arrays of results begin."""
    return tuple(f"{group}/{name}/".lstrip("/") for group, _, name in results)


def facts_of_results(where: str, results: list[Result]) -> Json:
    """Facts of results, JSON."""
    return {
        "kind": "results",
        "location": where,
        "results": [facts_of_result(result) for result in results],
    }


def facts_of_result(result: Result) -> Json:
    """Facts of one result."""
    marks = result.status
    return {
        "location": result.location,
        "state": result.state,
        "units": len(marks),
        "done": int((marks == DONE).sum()),
        "failed": int((marks == FAILED).sum()),
        "arrays": [
            row_of(name, array.shape, str(array.dtype), dims=array.dims, chunks=array.chunks)
            for name, array in ((name, result[name]) for name in result)
        ],
        "params": {key: shown(value) for key, value in result.manifest.computation.params.items()},
        "provenance": result.provenance,
    }


def heading_of(facts: Json) -> Iterator[str]:
    """What is told of one result before its arrays."""
    provenance = facts["provenance"]
    failed = f", {facts['failed']} failed" * bool(facts["failed"])
    yield f"result at {facts['location']}"
    yield f"  {'state':10} {facts['state']}, {facts['done']:,} of {facts['units']:,} units{failed}"
    for source in provenance["computation"]["sources"]:
        yield f"  {'source':10} {source['place']}, {source['dtype']} {source['shape']}"
    for number, (key, value) in enumerate(facts["params"].items()):
        yield f"  {'params' * (number == 0):10} {key} {value}"
    for number, session in enumerate(provenance["sessions"]):
        yield f"  {'sessions' * (number == 0):10} {told_session(session)}"
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    yield f"  {'versions':10} {versions}"
