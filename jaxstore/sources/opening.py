"""From any place to sources of rows.

Owned here: what a place is. Formats are imported when they are needed; each is read by its own
`fetch_*`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxstore.errors import FormatError, MissingError
from jaxstore.sources.axes import Axes, axes_of
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.fetch_store import ResultLike, result_rows, store_arrays
from jaxstore.sources.geometry import ArrayGeometry
from jaxstore.stores.base import Store
from jaxstore.stores.icechunk_branch import is_icechunk
from jaxstore.stores.urls import is_url, local_path, redact

# "data.zarr:/group/x", but not "s3://bucket", nor "C:/data".
_ARRAY_IN_PLACE = re.compile(r"(?P<place>.{2,}):/(?P<name>[^/].*)", re.DOTALL)


def open_arrays(
    where: Any,
    variables: Sequence[str] | None = None,
    *,
    axis: Axes = 0,
    is_strict: bool = False,
) -> dict[str, RowSource]:
    """The arrays of any place as sources of rows, by name; they may differ in length.

    Args:
        where: A path or URL of HDF5, Zarr or a run, with ":/name" for one array of it; a handle of
            h5py, zarr or obstore; a run or a leaf of it; an array of a result; an array in memory;
            or a mapping from label to any of these. A label of a place with several arrays is the
            name of one.
        variables: Names of arrays, or labels of the mapping. None takes all arrays of numbers with
            at least one axis; of a run, its leaves.
        axis: The sample axis, of all or by name; of a run it is that of the draws.
        is_strict: Whether absent chunks are errors, not fill values; of a run they always are.

    Raises:
        MissingError: Nothing is there, or no array of a name; the message lists those there are.
        FormatError: What is there cannot be loaded.
        BusyError: Another process writes it, and not so that it could be read meanwhile; or a run
            has no draws yet.
        TypeError: This is no place.

    >>> import numpy as np
    >>> sources = open_arrays({"x": np.zeros((4, 2)), "y": np.zeros(4)})
    >>> {label: source.geometry.n_samples for label, source in sources.items()}
    {'x': 4, 'y': 4}
    """
    names = [variables] if isinstance(variables, str) else variables
    names = None if names is None else list(names)
    asked = _Asked(names, axis, is_strict)
    if isinstance(where, Mapping) and _library(where) is None:
        return _open_mapping(where, asked)
    place, inside = array_in_place(where)
    if inside is None:
        return _open_place(where, asked)
    if names not in (None, [inside]):
        raise MissingError(
            f"{where!r} is the array {inside!r} alone, variables are {names}. Leave out one of "
            "the two."
        )
    return _open_place(place, _Asked([inside], axis, is_strict))


def open_geometries(
    where: Any,
    variables: Sequence[str] | None = None,
    *,
    axis: Axes = 0,
    **store_options: Any,
) -> dict[str, ArrayGeometry]:
    """How the arrays of a place are cut, by name; nothing stays open.

    Args:
        where: As for `open_arrays`.
        variables: As for `open_arrays`.
        axis: As for `open_arrays`.
        store_options: Of a URL, for obstore, as for `store_from_url`.

    Raises:
        JaxstoreError: As for `open_arrays`.
        TypeError: There are options, but not a URL.

    >>> import numpy as np
    >>> open_geometries({"x": np.zeros((40, 2))})["x"].n_samples
    40
    """
    if store_options:
        if not is_url(where):
            raise TypeError(
                f"{', '.join(store_options)}: options are for URLs, not for a "
                f"{type(where).__name__}. Leave them out."
            )
        where = store_from_url(where, **store_options)
    sources = open_arrays(where, variables, axis=axis)
    try:
        return {name: source.geometry for name, source in sources.items()}
    finally:
        for source in sources.values():
            source.close()


def let_write(source: RowSource) -> None:
    """Let others write into the file that a source reads, other arrays than that source.

    An HDF5 file is locked for writers as long as it is read. Whoever adds results to it, or waits
    for others to do so, calls this.
    """
    file = getattr(source, "file", None)
    if file is not None and hasattr(file, "unlock"):
        file.unlock()


def store_from_url(url: str, *, read_only: bool = True, **options: Any) -> Any:
    """A store of zarr for a URL, which zarr and jaxstore take alike.

    Args:
        url: file://, s3://, gs://, az://, http(s):// or memory://; or a local path. Each call of
            memory:// gives a new, empty store.
        read_only: Whether nothing can be written to it.
        options: For obstore, such as region, skip_signature or client_options; what is not given
            comes from the environment.

    Raises:
        FormatError: It is no such URL, or not with these options.

    >>> store_from_url("memory://", read_only=False).read_only
    False
    """
    from jaxstore.sources.fetch_url import zarr_store

    return zarr_store(url, read_only=read_only, options=options)


def ensure_local_dir(url: str | os.PathLike[str]) -> None:
    """Make the folder of a path or a file:// URL, and those above it; nothing for other URLs.

    >>> ensure_local_dir("s3://bucket/data.zarr")
    """
    path = local_path(str(url)) if is_url(url) else Path(url)
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is wanted of a place."""

    names: list[str] | None
    axis: Axes
    is_strict: bool


def array_in_place(where: Any) -> tuple[Any, str | None]:
    """A place and the array in it that is meant, if there is one."""
    found = _ARRAY_IN_PLACE.fullmatch(where) if isinstance(where, str) else None
    # A file may have such a name itself.
    if found is None or (not is_url(where) and Path(where).exists()):
        return where, None
    return found["place"], found["name"].strip("/")


def _open_mapping(places: Mapping[str, Any], asked: _Asked) -> dict[str, RowSource]:
    labels = list(places) if asked.names is None else asked.names
    axes = axes_of(asked.axis, labels, location="the mapping")
    there = ", ".join(map(repr, places)) or "nothing"
    sources: dict[str, RowSource] = {}
    for label in labels:
        if label not in places:
            raise MissingError(f"There is no {label!r} in the mapping. There is: {there}.")
        one = _Asked(None, axes[label], asked.is_strict)
        sources[label] = _open_label(label, places[label], one)
    return sources


def _open_label(label: str, where: Any, asked: _Asked) -> RowSource:
    """The one array that a label of a mapping means."""
    from jaxstore.sources.fetch_memory import is_array, memory_arrays

    if isinstance(where, RowSource):
        return where
    if _library(where) is None and is_array(where):
        return memory_arrays({label: where}, axis=asked.axis)[label]
    found = open_arrays(where, axis=asked.axis, is_strict=asked.is_strict)
    name = label if label in found or len(found) != 1 else next(iter(found))
    for other, source in found.items():
        if other != name:
            source.close()
    if name not in found:
        there = ", ".join(map(repr, found))
        raise MissingError(
            f"{label!r}: its place has several arrays, none of that name. There is: {there}. "
            "Name one of them behind the place, as in 'data.zarr:/x'."
        )
    return found[name]


def _open_place(where: Any, asked: _Asked) -> dict[str, RowSource]:
    from jaxstore.sources.fetch_memory import is_array, memory_arrays
    from jaxstore.sources.fetch_run import LeafLike, RunLike, open_leaf, open_run_arrays

    library = _library(where)
    if isinstance(where, Store):
        return _open_store(where, asked)
    if library is None and is_array(where):
        return _picked(memory_arrays({"x": where}, axis=asked.axis), asked)
    if library is None and isinstance(where, ResultLike):
        return _open_result(where, asked)
    if library is None and isinstance(where, LeafLike):
        _check_run_axis(asked)
        return _picked({where.name: open_leaf(where)}, asked)
    if library is None and isinstance(where, RunLike):
        _check_run_axis(asked)
        draws = [int(n) for n in where.sample_count]
        return open_run_arrays(where.leaves[0].store, asked.names, draws=draws)
    if library is None and not isinstance(where, (str, os.PathLike)):
        raise TypeError(
            f"{type(where).__name__} is no place of arrays. Give a path, a URL, a handle of h5py, "
            "zarr or obstore, a run, an array, one of a result, or a mapping of these."
        )
    return _open_file(where, asked)


def _open_file(where: Any, asked: _Asked) -> dict[str, RowSource]:
    """A path, a URL or a handle of a library: a run, or arrays."""
    from jaxstore.sources.fetch_run import open_run_arrays

    if is_url(where):
        where = local_path(where) or where
    if isinstance(where, (str, os.PathLike)) and not is_url(where) and not Path(where).exists():
        raise MissingError(f"{where}: nothing is there. Correct the path.")
    if _holds_run(where, asked.names):
        _check_run_axis(asked)
        return open_run_arrays(where, asked.names)
    is_file = isinstance(where, (str, os.PathLike)) and not is_url(where) and Path(where).is_file()
    if is_file or _library(where) == "h5py":
        from jaxstore.sources.fetch_hdf5 import open_hdf5_arrays as opener
    else:
        from jaxstore.sources.fetch_zarr import open_zarr_arrays as opener
    found = opener(where, asked.names, axis=asked.axis, is_strict=asked.is_strict)
    if not found and asked.names is None:
        shown = redact(str(where))
        raise MissingError(f"{shown}: there is no array of numbers with an axis. Correct the path.")
    return found


def _open_store(store: Store, asked: _Asked) -> dict[str, RowSource]:
    from jaxstore.sources.fetch_run import open_run_arrays
    from jaxstore.sources.fetch_run_manifest import has_draws

    if has_draws(store, asked.names):
        _check_run_axis(asked)
        return open_run_arrays(store, asked.names)
    return store_arrays(store, asked.names, axis=asked.axis, is_strict=asked.is_strict)


def _open_result(array: ResultLike, asked: _Asked) -> dict[str, RowSource]:
    name, where = array.spec.name, array.address
    axis = axes_of(asked.axis, [name], location=array.group.location)[name]
    if where is None:
        source = result_rows(array, axis=axis, is_strict=asked.is_strict)
    else:
        (source,) = open_arrays(where, axis=axis, is_strict=asked.is_strict).values()
    return _picked({name: source}, asked)


def _holds_run(where: Any, names: Sequence[str] | None) -> bool:
    """Whether there is a run at a place, and names, if any, are of its draws."""
    from jaxstore.sources.fetch_run_manifest import has_draws
    from jaxstore.stores.location import open_store

    if _library(where) is not None and hasattr(where, "dtype"):
        return False  # one array
    try:
        store = open_store(where)
    except (FormatError, MissingError):
        # Zarr v2, or an array alone, or not what it seems: told by who reads it.
        return False
    try:
        return has_draws(store, names)
    finally:
        store.close()


def _picked(found: dict[str, RowSource], asked: _Asked) -> dict[str, RowSource]:
    for name in asked.names or ():
        if name not in found:
            there = ", ".join(map(repr, found))
            raise MissingError(f"There is no {name!r} here. There is: {there}.")
    return found


def _check_run_axis(asked: _Asked) -> None:
    """Refuse another axis than that of the draws, which 0 means here too."""
    axes = asked.axis.values() if isinstance(asked.axis, Mapping) else [asked.axis]
    if wrong := [axis for axis in axes if axis not in (0, 1)]:
        raise ValueError(
            f"axis is {wrong[0]}, but the rows of a run are its draws, axis 1. Leave axis out, or "
            "open the array of the run by zarr or h5py."
        )


def _library(where: Any) -> str | None:
    """Of which library a handle is, None for what none of them made."""
    if is_icechunk(where):
        return "icechunk"
    for kind in type(where).__mro__:
        if (name := kind.__module__.partition(".")[0]) in ("h5py", "zarr", "obstore"):
            return name
    return None
