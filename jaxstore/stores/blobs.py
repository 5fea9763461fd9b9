"""Whole objects under keys: files, objects of an object store, keys of a zarr store.

Owned here: putting, getting and listing, each put seen whole or not at all. What the objects mean
is for the format. zarr is imported to hand the same place to its array API.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import obstore
import zarr.storage
from zarr.abc.store import Store as AnyZarrStore

from jaxstore.errors import ExistsError, FormatError
from jaxstore.stores.blobs_ahead import Found
from jaxstore.stores.blobs_icechunk import IcechunkBlobs
from jaxstore.stores.blobs_objects import ObjectBlobs
from jaxstore.stores.blobs_service import open_url
from jaxstore.stores.blobs_zarr import ZarrBlobs
from jaxstore.stores.files import (
    make_folders,
    put_file,
    put_new_file,
    remove_leftovers,
    sync_folder,
)
from jaxstore.stores.icechunk_branch import branch_of, is_icechunk
from jaxstore.stores.plain_files import ANY_BYTES, Array, PlainFiles, check_exact, check_size
from jaxstore.stores.urls import is_url, local_path, redact


class Blobs(Protocol):
    """Objects under one root. `put` replaces an object whole, in one step for every reader."""

    @property
    def location(self) -> str:
        """Where the root is, for messages."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether a request waits for a network, as far as can be told."""
        ...

    @property
    def zarr_store(self) -> AnyZarrStore:
        """The same place for zarr."""
        ...

    @property
    def prefix(self) -> str:
        """Path of the root inside `zarr_store`, "" or ending in a slash."""
        ...

    def below(self, folder: str) -> Blobs:
        """The objects in a folder, as a place of their own."""
        ...

    def fresh(self) -> Blobs:
        """The same place as readers find it."""
        ...

    def get(self, key: str, most_bytes: int = ANY_BYTES) -> bytes | None:
        """The object, None if there is none.

        Raises:
            FormatError: It has more bytes than it may have.
        """
        ...

    def get_view(self, key: str, most_bytes: int, take: Callable[[int], Array]) -> Array | None:
        """As `get`, as bytes that were not copied.

        Args:
            key: Of the object.
            most_bytes: It may have.
            take: Gives contiguous bytes to read into, for as many as it has; used where the bytes
                are nowhere in memory yet.
        """
        ...

    def get_into(self, key: str, parts: Sequence[Array]) -> bool:
        """Fill the parts, contiguous bytes, with the object; whether there is one.

        Raises:
            FormatError: It has another size than the parts together.
        """
        ...

    def get_many(self, keys: Iterable[str], most_bytes: int) -> Iterator[Found]:
        """As `get` of each key, in order; where that takes time, several at once."""
        ...

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts, one after the other, as one object."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        ...

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""
        ...

    def stamps(self, under: str) -> Iterator[tuple[str, str]] | None:
        """Key of each object in a folder and the folders in it, and what changes when it does.

        None where objects have no such thing.
        """
        ...

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        ...

    def tidy(self) -> None:
        """Remove what killed writers left half done."""
        ...

    def sync(self) -> None:
        """Where that was asked for, wait until all that was put would outlive a power loss."""
        ...

    def publish(self, message: str) -> None:
        """Show readers what was put, where they do not see it at once; `message` says what."""
        ...


class FileBlobs:
    """Files below a directory; errors of the system pass through with their errno.

    Args:
        root: Made by `make_folder` alone, so that it does not come back once it is removed.
        durable: Whether `sync` has something to do; each file is then synced as it is put.
    """

    prefix = ""
    is_remote = False

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = Path(os.path.abspath(root))  # a later change of directory changes nothing
        self._durable = durable
        self._unsynced: set[str] = set()  # folders with new names in them
        self._files = PlainFiles(str(self.root))
        self.location = str(root)
        self.zarr_store: AnyZarrStore = zarr.storage.LocalStore(self.root)

    def make_folder(self) -> bool:
        """Make the root and the folders above it; whether it was not there before."""
        absent = [folder for folder in self.root.parents if not folder.exists()]
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self._changed(*(str(folder.parent) for folder in (self.root, *absent)))
        try:
            self.root.mkdir()
        except FileExistsError:
            if self.root.is_dir():
                return False
            raise ExistsError(
                f"{self.root} is a file. Nothing was changed. Choose another path."
            ) from None
        return True

    def below(self, folder: str) -> FileBlobs:
        """The files in a folder, as a place of their own."""
        blobs = FileBlobs(self.root / folder, durable=self._durable)
        blobs.location = f"{self.location}/{folder}"
        return blobs

    def fresh(self) -> FileBlobs:
        """The same place as readers find it: as it is."""
        return self

    def get(self, key: str, most_bytes: int = ANY_BYTES) -> bytes | None:
        """The object, None if there is none."""
        return self._files.read(key, most_bytes)

    def get_view(self, key: str, most_bytes: int, take: Callable[[int], Array]) -> Array | None:
        """As `get`, as bytes that `take` gave."""
        taken: list[Array] = []

        def room(n_bytes: int) -> Sequence[Array]:
            check_size(key, n_bytes, most_bytes, location=self.location)
            taken.append(take(n_bytes))
            return taken

        return None if self._files.read_into(key, room) is None else taken[0]

    def get_into(self, key: str, parts: Sequence[Array]) -> bool:
        """Fill the parts with the object; whether there is one."""

        def room(n_bytes: int) -> Sequence[Array]:
            check_exact(key, n_bytes, parts, location=self.location)
            return parts

        return self._files.read_into(key, room) is not None

    def get_many(self, keys: Iterable[str], most_bytes: int) -> Iterator[Found]:
        """As `get` of each key: a disk gives one after the other as fast."""
        for key in keys:
            try:
                found: Found = self._files.read(key, most_bytes)
            except FormatError as error:
                found = error
            yield found

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts as one object."""
        path = os.path.join(self.root, key)
        try:
            put_file(path, parts, durable=self._durable)
        except FileNotFoundError:
            self._changed(*make_folders(str(self.root), os.path.dirname(key)))
            put_file(path, parts, durable=self._durable)
        self._changed(os.path.dirname(path))

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        path = os.path.join(self.root, key)
        is_put = put_new_file(path, (data,), durable=self._durable)
        if is_put:
            self._changed(os.path.dirname(path))
        return is_put

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        path = os.path.join(self.root, key)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            self._changed(os.path.dirname(path))

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""
        for folder, _, names in os.walk(self.root / under):
            for name in names:
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def stamps(self, under: str) -> Iterator[tuple[str, str]]:
        """Key, and size and time, of each object in a folder and the folders in it."""
        with os.scandir(self.root / under) as entries:
            for entry in entries:
                key = f"{under.rstrip('/')}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    yield from self.stamps(key)
                    continue
                with contextlib.suppress(FileNotFoundError):  # as what a writer renames
                    found = entry.stat(follow_symlinks=False)
                    yield key, f"{found.st_size} {found.st_mtime_ns}"

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        with os.scandir(self.root / under) as entries:
            return [entry.name for entry in entries if entry.is_dir()]

    def tidy(self) -> None:
        """Remove what killed writers left half done."""
        remove_leftovers(self.root)

    def sync(self) -> None:
        """Where that was asked for, wait until all that was put would outlive a power loss."""
        for folder in sorted(self._unsynced, reverse=True):  # before the one above, which names it
            self._unsynced.discard(folder)  # first: another thread may put into it meanwhile
            try:
                sync_folder(folder)
            except BaseException:
                self._unsynced.add(folder)
                raise

    def publish(self, message: str) -> None:
        """Nothing to do: what was put is seen."""

    def _changed(self, *folders: str) -> None:
        if self._durable:
            self._unsynced.update(folders)


def blobs_at(where: Any, *, durable: bool = False, is_reading: bool = False) -> Blobs:
    """The objects at a path, a URL, an obstore store, a zarr store, group or array, or a branch.

    Args:
        where: The place; of objects that are at hand, these.
        is_reading: Whether nothing is going to be put, so that a store which only reads, whose
            files and objects are reached without a turn of zarr's event loop, is one like others.
        durable: Whether `sync` makes files outlive a power loss.
    """
    if isinstance(where, (FileBlobs, ObjectBlobs, ZarrBlobs, IcechunkBlobs)):
        return where
    if branch := branch_of(where):
        return IcechunkBlobs.of_branch(branch)
    if is_url(where):
        path = local_path(where)
        if path is None:
            return ObjectBlobs(open_url(where), "", location=redact(where))
        return FileBlobs(path, durable=durable)
    if isinstance(where, (str, os.PathLike)):
        return FileBlobs(Path(where), durable=durable)
    if isinstance(where, (zarr.Group, zarr.Array)):
        inside = where.path.strip("/")
        return _of_zarr(where.store, inside, durable=durable, is_reading=is_reading)
    if isinstance(where, AnyZarrStore):
        return _of_zarr(where, "", durable=durable, is_reading=is_reading)
    if type(where).__module__.partition(".")[0] == "obstore":
        return _of_obstore(where, "", durable=durable)
    raise TypeError(
        f"{type(where).__name__} is no place for a Zarr store. "
        "Give a path, a URL, an obstore store, a zarr store, group or array, or a repository of "
        "Icechunk."
    )


def _of_zarr(store: Any, path: str, *, durable: bool, is_reading: bool) -> Blobs:
    if is_icechunk(store):
        return IcechunkBlobs(store.session, prefix=f"{path}/" if path else "")
    # Files and objects are put by us: in one step, and without a turn of zarr's event loop.
    is_plain = is_reading or not store.read_only
    if type(store) is zarr.storage.LocalStore and is_plain:
        return FileBlobs(store.root / path, durable=durable)
    if type(store) is zarr.storage.ObjectStore and is_plain:
        return _of_obstore(store.store, path, durable=durable)
    return ZarrBlobs(store, f"{path}/" if path else "")


def _of_obstore(store: Any, path: str, *, durable: bool) -> Blobs:
    if isinstance(store, obstore.store.LocalStore) and store.prefix is not None:
        return FileBlobs(Path(store.prefix) / path, durable=durable)  # its errors carry no errno
    shown = "memory://" if isinstance(store, obstore.store.MemoryStore) else repr(store)
    prefix = f"{path}/" if path else ""
    return ObjectBlobs(store, prefix, location=redact(shown) + f" {path}".rstrip())
