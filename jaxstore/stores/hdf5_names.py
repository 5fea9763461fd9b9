"""Names in an HDF5 file: found, listed and made, over hard links alone.

Owned here: the walk to a name, which follows no link out of the file. What lies there is
`hdf5_arrays`.
"""

from __future__ import annotations

from typing import Any

import h5py

from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.stores.hdf5_labels import is_labels
from jaxstore.stores.hdf5_scales import is_pure, move_aside


def find_item(root: h5py.Group, name: str, *, location: str) -> Any:
    """The dataset or group of a name, "" for the root; None if there is none.

    Raises:
        FormatError: The way there leaves the file, or leads over a soft link.
    """
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


def array_names(root: h5py.Group) -> list[str]:
    """Names of all arrays, sorted; links to other places are not followed."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not (is_pure(item) or is_labels(item)):
            found.append(name)

    root.visititems(visit)
    return sorted(found)


def missing(root: h5py.Group, name: str, *, location: str) -> MissingError:
    """The error of a name that is not there, with those that are."""
    there = ", ".join(map(repr, array_names(root))) or "nothing"
    return MissingError(f"There is no {name!r} in {location}. There is: {there}.")
