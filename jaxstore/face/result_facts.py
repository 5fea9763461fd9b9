"""Results of `js.process` at a path, as facts for machines and as text for people.

Owned here: which results a path means, all that lie in it or itself; and their rows in
`jaxstore info`.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxstore.errors import FormatError, MissingError
from jaxstore.processing.finding import find
from jaxstore.processing.result import Result
from jaxstore.processing.same import shown
from jaxstore.stores.base import Json
from jaxstore.stores.results import DONE, FAILED
from jaxstore.stores.results_place import results_at


def results_of(where: str) -> list[Result]:
    """The results in a place, or the one that a path itself means; none where there are none."""
    found = find(where)
    if found:
        return found
    above, _, name = where.rstrip("/").rpartition("/")
    if above.endswith(":"):  # "data.h5:/raw-peak_000"
        above += "/"
    try:
        place = results_at(above or ".")
        return [Result(place, name)] if name in dict(place.manifests()) else []
    except (FormatError, MissingError):
        return []


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
            {
                "name": name,
                "shape": list(result[name].shape),
                "dtype": str(result[name].dtype),
                "dims": list(result[name].dims),
                "chunks": list(result[name].chunks),
            }
            for name in result
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
        yield (
            f"  {'sessions' * (number == 0):10} {session['started']} to {session['ended'] or '?'}, "
            f"{session['units']:,} units, {session['engine']} {session['workers']}, "
            f"{session['host']}"
        )
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    yield f"  {'versions':10} {versions}"
