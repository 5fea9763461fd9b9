"""Where a source lies, in words that another process can open, and where results beside it go.

Owned here: from a place of an array to the group above it and the last part of its name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxstore.errors import MismatchError
from jaxstore.names import encode_key
from jaxstore.processing.ensemble_items import Numbers
from jaxstore.processing.result_array import ResultArray
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.opening import array_in_place
from jaxstore.stores.urls import is_url


@dataclass(frozen=True, slots=True)
class Beside:
    """The group that an array lies in."""

    where: Any  # path, URL, handle, place of results, or "memory"
    group: str  # inside, "" for the root
    leaf: str  # last part of the name of the array


def beside(place: Any, source: RowSource) -> Beside:
    """The group of an array, for results beside it.

    Args:
        place: As the user gave it.
        source: As it was opened.

    Raises:
        MismatchError: There is no group beside it that could be written.
    """
    leaf = leaf_name(source)
    if isinstance(place, (str, os.PathLike)):
        where, inside = array_in_place(place)
        if inside is None and getattr(source, "folder", None) == "":
            raise MismatchError(
                f"{place} is a Zarr array by itself, and results go into a group. Name the array "
                "in its group, as 'data.zarr:/raw', or give a target."
            )
        name = source.geometry.name if inside is None else inside
        return Beside(where, name.rpartition("/")[0], leaf)
    if isinstance(place, ResultArray):
        return Beside(place.place, "", leaf)
    kind = _library(place)
    if kind == "h5py":
        if place.file.mode == "r":
            raise MismatchError(
                f"{place.file.filename} is open for reading, so no results can be written beside "
                f"{place.name!r}. Close it and give the path, 'data.h5:{place.name}', or a target."
            )
        return Beside(place.file, place.parent.name.strip("/"), leaf)
    if kind == "zarr" and hasattr(place, "dtype"):
        path = place.store_path.path
        return Beside(place.store, path.rpartition("/")[0], leaf)
    if isinstance(place, np.ndarray) or hasattr(place, "__dlpack__"):
        return Beside("memory", "", leaf)
    if hasattr(place, "store") and hasattr(place, "name"):  # the draws of a run
        if place.store.keeps_commits:
            raise MismatchError(
                f"results cannot be put beside {place.name!r} in {place.store.location}: they are "
                "not written into Icechunk. Give a target, such as 'results.zarr' or 'memory'."
            )
        location = place.store.location
        return Beside(location, str(place.name).rpartition("/")[0], leaf)
    raise MismatchError(
        f"results cannot be put beside a {type(place).__name__}. Give a target, such as "
        "'results.zarr' or 'memory'."
    )


def leaf_name(source: RowSource) -> str:
    """The last part of the name of an array, as a plain part of a path."""
    return encode_key(source.geometry.name.rpartition("/")[2] or "x")


def address_of(place: Any) -> Any:
    """The same place in words that other processes can open.

    Raises:
        MismatchError: It has none, such as an array in memory, or a handle that holds secrets.
    """
    if isinstance(place, os.PathLike):
        return str(Path(place).absolute())
    if isinstance(place, str):
        where, inside = array_in_place(place)
        if is_url(where):
            return place
        path = str(Path(where).absolute())
        return path if inside is None else f"{path}:/{inside}"
    if isinstance(place, Numbers):
        return place
    if isinstance(place, ResultArray) and place.address is not None:
        return place.address
    kind = _library(place)
    if kind == "h5py" and hasattr(place, "dtype"):
        return f"{Path(place.file.filename).absolute()}:{place.name}"
    if kind == "zarr" and hasattr(place, "dtype") and hasattr(place.store, "root"):
        folder = Path(place.store.root).absolute() / place.store_path.path
        return f"{folder.parent}:/{folder.name}"
    raise MismatchError(
        f"a {type(place).__name__} cannot be opened by other processes. Give its path or URL, or "
        "use engine='threads'."
    )


def _library(place: Any) -> str | None:
    for kind in type(place).__mro__:
        if (name := kind.__module__.partition(".")[0]) in ("h5py", "zarr"):
            return name
    return None
