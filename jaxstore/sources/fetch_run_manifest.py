"""What a run says of itself: its manifest and its commit record, as plain data, checked.

Owned here: which arrays are leaves, and how many draws count. Both are written by the saving wing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.dtypes import parse_dtype
from jaxstore.stores.run_format import FORMAT_VERSION, ITERATION, MANIFEST


def is_run(store: Store) -> bool:
    """Whether a store holds a run."""
    manifest = store.attrs().get(MANIFEST)
    return isinstance(manifest, dict) and manifest.get("kind") == "run"


def has_draws(store: Store, names: Sequence[str] | None) -> bool:
    """Whether what is asked for are draws of a run, not arrays beside them, such as results.

    Args:
        store: Of a run, or not.
        names: Of arrays; None for all.
    """
    if not is_run(store):
        return False
    asked = set(names or ())
    return not asked or bool(asked & set(arrays_of(store))) or not asked <= set(store.names())


def arrays_of(store: Store) -> dict[str, Mapping[str, Json] | None]:
    """The arrays of a run by path, with what the manifest says of those that are leaves."""
    manifest: Json = store.attrs().get(MANIFEST)
    found = _parsed(lambda: int(manifest["format_version"]), "manifest", store)
    if found > FORMAT_VERSION:
        raise FormatError(
            f"{store.location} has run format {found}, this jaxstore reads up to "
            f"{FORMAT_VERSION}. Update jaxstore."
        )
    leaves = _parsed(lambda: {str(leaf["name"]): dict(leaf) for leaf in manifest["leaves"]},
                     "manifest", store)  # fmt: skip
    groups = _parsed(lambda: [str(group) for group in manifest["groups"]], "manifest", store)
    return {**leaves, **{f"{group}/{ITERATION}": None for group in groups}}


def leaves_of(arrays: Mapping[str, Mapping[str, Json] | None]) -> list[str]:
    """Those of them that are leaves."""
    return [path for path, leaf in arrays.items() if leaf is not None]


def draws_of(store: Store) -> tuple[int, ...]:
    """Committed draws of each chain."""
    record: Json = store.committed()
    if record is None:
        raise BusyError(
            f"The run at {store.location} has committed nothing yet. Open it again later."
        )
    draws = _parsed(lambda: [int(n) for n in record["draws"]], "commit record", store)
    if min(draws, default=0) < 0:
        raise FormatError(_damaged("commit record", store, f"draws are {draws}"))
    return tuple(draws)


def spec_of(store: Store, path: str, leaf: Mapping[str, Json] | None) -> ArraySpec:
    """How an array lies there, which is as the manifest says."""
    spec = store.spec(path)
    if leaf is None:
        return spec
    told = _parsed(lambda: (tuple(leaf["shape"]), parse_dtype(leaf["dtype"])), "manifest", store)
    if (spec.shape[2:], spec.dtype) != told or len(spec.shape) < 2:
        raise FormatError(
            f"{path!r} in {store.location}: the manifest tells of draws of {told[1]}"
            f"{list(told[0])}, the array has {spec.dtype}{list(spec.shape[2:])}. Restore it from "
            "a copy."
        )
    return spec


def path_of(name: str, arrays: Mapping[str, Any], location: str) -> str:
    """The path of an array that is named with its group or, if there is one group, without."""
    groups = {path.partition("/")[0] for path in arrays}
    for path in (name, *(f"{group}/{name}" for group in groups if len(groups) == 1)):
        if path in arrays:
            return path
    there = ", ".join(map(repr, arrays))
    raise MissingError(f"There is no {name!r} in the run at {location}. There is: {there}.")


def _parsed[T](parse: Callable[[], T], what: str, store: Store) -> T:
    try:
        return parse()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(_damaged(what, store, repr(error)[:100])) from error


def _damaged(what: str, store: Store, reason: str) -> str:
    return f"The {what} of {store.location} is damaged ({reason}). Restore it from a copy."
