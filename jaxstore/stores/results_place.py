"""From a path, a URL or an open handle to a place of results.

Owned here: which format a place has or gets. The formats are imported when they are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxstore.stores.icechunk_branch import is_icechunk
from jaxstore.stores.location import takes_hdf5
from jaxstore.stores.results import ResultPlace
from jaxstore.stores.urls import is_url

MEMORY = "memory"
# "data.h5:/group", but not "s3://bucket", nor "C:/data".
_GROUP_IN_PLACE = re.compile(r"(?P<place>.{2,}):/(?P<group>[^/].*)?", re.DOTALL)


def results_at(
    where: Any,
    *,
    group: str = "",
    compression: str | None = "zstd",
    checksum: bool = True,
    durable: bool = False,
) -> ResultPlace:
    """The place of results that a path, a URL or a handle means; nothing is made there yet.

    Args:
        where: A path or URL, with ":/group" for a group in it; a handle of h5py, zarr or obstore;
            "memory" for a new place in memory; or a place of results, which is returned. Where
            nothing is yet, a path ending in .h5, .hdf5 or .he5 gets HDF5, any other Zarr.
        group: In it, below the one that `where` names.
        compression: Of new results: "zstd", "lz4" or None.
        checksum: Whether their chunks carry a checksum.
        durable: Whether what is marked outlives a power loss.

    Raises:
        FormatError: There is a file of another kind, or HDF5 that is not local.
        TypeError: This is no place.

    >>> results_at("memory").location
    'memory'
    >>> results_at("new.zarr:/measurement", group="fits").location
    'new.zarr/measurement/fits'
    """
    if hasattr(where, "manifests"):
        return where.within(group) if group else where
    if isinstance(where, str) and where == MEMORY:
        from jaxstore.stores.results_memory import MemoryResults

        return MemoryResults().within(group) if group else MemoryResults()
    if is_icechunk(where):
        raise TypeError(
            "results are not written into Icechunk: several processes fill one, and there each "
            "would commit over the others. Give a folder, a URL, or 'memory' as the target."
        )
    place, inside = _split(where)
    settings: dict[str, Any] = {
        "group": "/".join(part for part in (inside.strip("/"), group.strip("/")) if part),
        "compression": compression,
        "checksum": checksum,
        "durable": durable,
    }
    if takes_hdf5(place):
        from jaxstore.stores.results_hdf5 import HDF5Results

        return HDF5Results(place, **settings)
    from jaxstore.stores.results_zarr import ZarrResults

    return ZarrResults(place, **settings)


def places_below(place: ResultPlace) -> Iterator[tuple[str, ResultPlace]]:
    """A place by the name "", then each group below it in which results lie, outer ones first."""
    yield "", place
    for group in place.groups():
        yield group, place.within(group)


def _split(where: Any) -> tuple[Any, str]:
    """A place and the group in it that is meant, "" for its root."""
    found = _GROUP_IN_PLACE.fullmatch(where) if isinstance(where, str) else None
    # A file may have such a name itself.
    if found is None or (not is_url(where) and Path(where).exists()):
        return where, ""
    return found["place"], found["group"] or ""
