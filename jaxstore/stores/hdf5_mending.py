"""A file whose writer was killed, made whole again before the next one writes it.

Owned here: whether HDF5 can still be trusted with such a file, and the new file if it cannot.
HDF5 changes its metadata in place, piece by piece, so that a kill between two pieces leaves a file
that it does not open, or in which chunks are lost. The chunks themselves lie where the log of the
writer says (`hdf5_chunk_log`), and what else counts is in its description; from both a new file is
made, which takes the place of the old one in one step.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path

import h5py

from jaxstore.errors import FormatError
from jaxstore.stores.base import Json
from jaxstore.stores.files import sync_folder
from jaxstore.stores.hdf5_arrays import make_array
from jaxstore.stores.hdf5_attrs import encode_all
from jaxstore.stores.hdf5_chunk_log import WriterGone
from jaxstore.stores.hdf5_chunks import places_of
from jaxstore.stores.hdf5_codec import filters_as_options
from jaxstore.stores.hdf5_description import describe, description_path
from jaxstore.stores.hdf5_direct import write_chunk
from jaxstore.stores.hdf5_file import new_file, sync_file
from jaxstore.stores.hdf5_labels import write_labels
from jaxstore.stores.hdf5_live import LiveFile
from jaxstore.stores.hdf5_lock import locked
from jaxstore.stores.hdf5_names import free_place, make_group
from jaxstore.stores.hdf5_record import (
    Beside,
    parse_packed,
    read_beside,
    record_path,
    replace_beside,
)
from jaxstore.stores.hdf5_stuck import is_stuck


def settle(path: Path) -> None:
    """Finish the last step of a mending that was cut short: the new file takes its place."""
    beside = _beside(path)
    if beside is not None and beside.is_mended:
        with contextlib.suppress(FileNotFoundError):  # it has done so
            os.replace(_mended_path(path), path)


def mend(path: Path, *, durable: bool) -> None:
    """Make a file sound that a killed writer left, if it is not; one that nothing counts in goes.

    Raises:
        FormatError: It is damaged, and cannot be mended.
    """
    beside = _beside(path)
    if beside is None:
        return
    if beside.is_new and not path.exists():
        record_path(path).unlink(missing_ok=True)
        return
    with locked(path) as is_mine:
        if not is_mine:
            return  # who opens it will be told
        settle(path)
        beside = _beside(path)
        if beside is None:
            return
        if beside.is_mended:
            replace_beside(path, replace(beside, is_mended=False), durable=durable)
        elif beside.is_new:
            if is_stuck(path) or not _is_whole(path):
                path.unlink()
                record_path(path).unlink()
        elif beside.live is not None:
            with contextlib.suppress(WriterGone):  # then HDF5 has written nothing since
                _mend(LiveFile(path, is_killed=True), path, beside, durable=durable)


def _beside(path: Path) -> Beside | None:
    try:
        return read_beside(path)
    except FormatError:  # for whoever asks for the record
        return None


def _mend(killed: LiveFile, path: Path, beside: Beside, *, durable: bool) -> None:
    if not killed.is_torn() and not is_stuck(path) and _is_as_told(killed, path):
        return
    partial = _mended_path(path)
    partial.unlink(missing_ok=True)
    with new_file(partial) as file:
        _copy(killed, file["/"], location=str(path))
        file.flush()
        if durable:
            sync_file(file)
    mended = Beside(beside.record, None, None, is_mended=True)
    replace_beside(path, mended, durable=durable)
    settle(path)
    if durable:
        sync_folder(str(path.parent))
    replace_beside(path, replace(mended, is_mended=False), durable=durable)


def _copy(killed: LiveFile, root: h5py.Group, *, location: str) -> None:
    """Put all that counts into an empty file."""
    description, shapes = killed.description, killed.shapes
    for name, attrs in description.attrs.items():
        if name not in description.arrays and name not in description.labels:
            make_group(root, name, location=location).attrs.update(encode_all(attrs, name=name))
    for name, labels in description.labels.items():
        write_labels(*free_place(root, name, location=location), labels)
    for name, shape in shapes.items():
        codec = description.arrays[name].codec
        if codec is None:
            raise FormatError(
                f"{location}: its writer was killed while HDF5 wrote, and only HDF5 could read "
                f"{name!r}, whose filters are not those of jaxstore. Restore it from a copy."
            )
        place = free_place(root, name, location=location)
        made = make_array(
            *place,
            description.spec(name, shape),
            dtype=codec.dtype,
            filters=filters_as_options(codec.filters),
        )
        for index, data in killed.chunks(name):
            origin = tuple(i * n for i, n in zip(index, codec.shape, strict=True))
            write_chunk(made, origin, data)
    for name in (*description.labels, *shapes):
        root[name].attrs.update(encode_all(description.attrs.get(name, {}), name=name))


def _is_as_told(killed: LiveFile, path: Path) -> bool:
    """Whether HDF5 finds in a file all that its writer told of it, and where it was told to be."""
    try:
        told = parse_packed(description_path(path).read_bytes(), location=str(path))
        with h5py.File(path, "r", locking=False) as file:
            found = json.loads(json.dumps(describe(file["/"], version=0)))
            return _has_all(found, told, list(killed.shapes)) and all(
                _shows(file[name], shape)
                and killed.places(name).items() <= set(places_of(file[name]))
                for name, shape in killed.shapes.items()
            )
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        return False


def _has_all(found: Json, told: Json, names: list[str]) -> bool:
    """Whether what counts of a description is in another."""
    return (
        found["labels"] == told["labels"]
        and found["attrs"].items() >= {"": told["attrs"][""]}.items()
        and all(found["attrs"].get(name) == attrs for name, attrs in told["attrs"].items())
        and all(found["arrays"].get(name) == told["arrays"][name] for name in names)
    )


def _shows(dataset: h5py.Dataset, shape: tuple[int, ...]) -> bool:
    return all(n >= told for n, told in zip(dataset.shape, shape, strict=True))


def _is_whole(path: Path) -> bool:
    """Whether HDF5 can read all that a file holds besides chunks."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            describe(file["/"], version=0)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        return False
    return True


def _mended_path(path: Path) -> Path:
    return path.with_name(path.name + ".mended")
