"""Names in an HDF5 file: found, listed and made, over hard links alone.

Owned here: the walk to a name, which follows no link out of the file. What lies there is
`hdf5_arrays`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.stores.hdf5_attrs import is_text
from jaxstore.stores.hdf5_blobs import is_blob
from jaxstore.stores.hdf5_labels import is_labels
from jaxstore.stores.hdf5_scales import is_pure, move_aside


def find_item(root: h5py.Group, name: str, *, location: str) -> Any:
    """The dataset or group of a name, "" for the root; None if there is none.

    Raises:
        FormatError: It is no name; or the way there leaves the file, or leads over a soft link.
    """
    check_name(name)
    item: Any = root
    for part in name.split("/") if name else ():
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise FormatError(
                f"{name!r} in {location}: {part!r} is a link to another place "
                f"({type(link).__name__}), which is not followed. Open that place instead."
            )
        item = item[part]
    return None if is_pure(item) else item


def check_name(name: str) -> None:
    """Refuse what HDF5 would store under another name than the one given.

    Raises:
        FormatError: A part is empty, "." or "..", or is no text for HDF5.
    """
    # HDF5 takes "a//b" and "a/./b" for "a/b", and "/a" from the root of the file; ".." it stores
    # as it is, but copies to Zarr or to a folder would follow it.
    parts = name.split("/") if name else []
    if wrong := [part for part in parts if part in ("", ".", "..") or not is_text(part)]:
        raise FormatError(
            f"{name!r} is no name of an array or group: {wrong[0]!r} is no plain part. "
            "Encode the parts with `names.encode_key`."
        )


def make_group(root: h5py.Group, name: str, *, location: str) -> h5py.Group:
    """The group of a name, "" for the root, with all groups on the way there.

    Raises:
        ExistsError: An array has the name of one of them.
    """
    group = root
    parts = name.split("/") if name else []
    for depth, part in enumerate(parts, start=1):
        move_aside(group, part)
        path = "/".join(parts[:depth])
        item = find_item(root, path, location=location)
        if isinstance(item, h5py.Dataset):
            raise ExistsError(
                f"{path!r} in {location} is an array, so {name!r} cannot be a group. "
                "Choose another name."
            )
        group = group.create_group(part) if item is None else item
    return group


def free_place(root: h5py.Group, name: str, *, location: str) -> tuple[h5py.Group, str]:
    """The group and the last part of a new name, with all groups on the way there.

    Raises:
        ExistsError: The name is taken, or an array has the name of one of the groups.
    """
    if find_item(root, name, location=location) is not None:
        raise ExistsError(
            f"{name!r} is already in {location}. Choose another name, or open what is there."
        )
    parent, _, leaf = name.rpartition("/")
    group = make_group(root, parent, location=location)
    move_aside(group, leaf)
    return group, leaf


def array_names(root: h5py.Group, *, with_labels: bool = False) -> list[str]:
    """Names of all arrays, sorted; links to other places are not followed."""
    return sorted(
        name
        for name, item in items_below(root)
        if isinstance(item, h5py.Dataset) and (is_array(item) or (with_labels and is_labels(item)))
    )


def items_below(root: h5py.Group) -> Iterator[tuple[str, Any]]:
    """All groups and datasets with their names; links to other places are not followed."""
    # Opened after the visit, not in it: h5py asks an object for its file, and where a file is open
    # more than once, HDF5 flushes it when it is let go, which fails in the midst of a visit.
    names: list[str] = []
    root.visit(names.append)
    return ((name, root[name]) for name in names)


def is_array(dataset: h5py.Dataset) -> bool:
    """Whether this is an array of a store, not a dimension, labels or a blob."""
    return not (is_pure(dataset) or is_labels(dataset) or is_blob(dataset))


def missing(root: h5py.Group, name: str, *, location: str) -> MissingError:
    """The error of a name that is not there, with those that are."""
    there = ", ".join(map(repr, array_names(root))) or "nothing"
    return MissingError(f"There is no {name!r} in {location}. There is: {there}.")
