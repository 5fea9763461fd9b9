"""Results of `js.process` at a path, as facts for machines and as text for people.

Owned here: which results a path means, all that lie in it or itself; and their rows in
`jaxstore info`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

from jaxstore.errors import FormatError, MissingError
from jaxstore.processing.finding import find
from jaxstore.processing.result import Result
from jaxstore.processing.same import shown
from jaxstore.stores.base import Json, Store
from jaxstore.stores.location import open_store
from jaxstore.stores.results import DONE, FAILED
from jaxstore.stores.results_place import results_at


def results_of(where: str) -> list[Result]:
    """The results in a place, at any depth, or the one that a path itself means."""
    found = find(where)
    if not found and (one := result_at(where)):
        return [one]
    try:
        with closing(open_store(where)) as store:
            nested = nested_results(where, store)
    except (FormatError, MissingError):  # a group inside of HDF5, nothing, or a damaged document
        return found
    return found + [Result(results_at(where, group=g), name) for g, name in nested if g]


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


def nested_results(where: str, store: Store) -> list[tuple[str, str]]:
    """Group and name of each result in a store, the outer groups first."""
    found: list[tuple[str, str]] = []
    for group in ("", *groups_above(store.names(with_labels=True))):
        if not f"{group}/".startswith(tuple(f"{g}/{name}/".lstrip("/") for g, name in found)):
            place = results_at(where, group=group)
            found += [(group, name) for name, _ in place.manifests()]
    return found


def groups_above(names: Iterable[str]) -> list[str]:
    """Groups that hold these arrays, the outer ones first, without the root.

    >>> groups_above(["a/b/x", "y"])
    ['a', 'a/b']
    """
    parts = [name.split("/") for name in names]
    return sorted({"/".join(p[:depth]) for p in parts for depth in range(1, len(p))})


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
