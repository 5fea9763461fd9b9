"""Whole objects under keys: files, objects of an object store, keys of a zarr store.

Owned here: putting, getting and listing, each put seen whole or not at all. What the objects mean
is for the format. zarr is imported to hand the same place to its array API.
"""

from __future__ import annotations

import os
from collections.abc import Buffer, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import obstore
import zarr.storage
from obstore.exceptions import AlreadyExistsError
from obstore.exceptions import BaseError as ObstoreError
from zarr.abc.store import Store as AnyZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from jaxstore.errors import ExistsError, FormatError
from jaxstore.stores.files import put_file, remove_leftovers
from jaxstore.stores.urls import is_url, local_path, redact

_MULTIPART_BYTES = 64 << 20  # below, one request per object; S3 takes up to 5 GiB in one
# A request that hangs is given up and tried again; obstore's own default waits for minutes.
_CLIENT = {"timeout": "60s", "connect_timeout": "10s"}


class Blobs(Protocol):
    """Objects under one root. `put` replaces an object whole, in one step for every reader."""

    @property
    def location(self) -> str:
        """Where the root is, for messages."""
        ...

    @property
    def zarr_store(self) -> AnyZarrStore:
        """The same place for zarr."""
        ...

    @property
    def prefix(self) -> str:
        """Path of the root inside `zarr_store`, "" or ending in a slash."""
        ...

    def get(self, key: str) -> bytes | None:
        """The object, None if there is none."""
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

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        ...

    def tidy(self, under: str = "") -> None:
        """Remove what killed writers left half done in a folder."""
        ...


class FileBlobs:
    """Files below a directory; errors of the system pass through with their errno."""

    prefix = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        self.zarr_store: AnyZarrStore = zarr.storage.LocalStore(root)

    def make_folder(self) -> bool:
        """Make the root and the folders above it; whether it was not there before."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.root.mkdir()
        except FileExistsError:
            if self.root.is_dir():
                return False
            raise ExistsError(
                f"{self.root} is a file. Nothing was changed. Choose another path."
            ) from None
        return True

    def get(self, key: str) -> bytes | None:
        """The object, None if there is none."""
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts as one object."""
        put_file(os.path.join(self.root, key), parts)

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        # First an empty file that only one writer can make, then its content in one step.
        try:
            with open(self.root / key, "xb"):
                pass
        except FileExistsError:
            return False
        self.put(key, (data,))
        return True

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        (self.root / key).unlink(missing_ok=True)

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""
        for folder, _, names in os.walk(self.root / under):
            for name in names:
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        with os.scandir(self.root / under) as entries:
            return [entry.name for entry in entries if entry.is_dir()]

    def tidy(self, under: str = "") -> None:
        """Remove what killed writers left half done in a folder."""
        remove_leftovers(self.root / under)


class ObjectBlobs:
    """Objects of an obstore store below a prefix."""

    def __init__(self, store: Any, prefix: str, *, location: str) -> None:
        self._store = store
        self.prefix = prefix
        self.location = location
        self.zarr_store: AnyZarrStore = zarr.storage.ObjectStore(store)

    def get(self, key: str) -> bytes | None:
        """The object, None if there is none."""
        try:
            return bytes(obstore.get(self._store, self.prefix + key).bytes())
        except FileNotFoundError:
            return None

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts as one object."""
        data = b"".join(parts)
        multipart = len(data) > _MULTIPART_BYTES
        obstore.put(self._store, self.prefix + key, data, use_multipart=multipart)

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        try:
            obstore.put(self._store, self.prefix + key, data, mode="create")
        except AlreadyExistsError:
            # A put whose answer was lost is sent again and then finds itself there.
            return self.get(key) == data
        return True

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        obstore.delete(self._store, self.prefix + key)

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""
        for batch in obstore.list(self._store, self._folder(under)):
            for entry in batch:
                yield entry["path"].removeprefix(self.prefix)

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        found = obstore.list_with_delimiter(self._store, self._folder(under))
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def tidy(self, under: str = "") -> None:
        """Nothing to do: an object is there whole or not at all."""

    def _folder(self, under: str) -> str | None:
        return (self.prefix + under).rstrip("/") or None


class ZarrBlobs:
    """Keys of a zarr store below a prefix, through zarr's own event loop."""

    def __init__(self, store: AnyZarrStore, prefix: str) -> None:
        self.zarr_store = store
        self.prefix = prefix
        self.location = redact(f"{store}{'/' if prefix else ''}{prefix}").rstrip("/")

    def get(self, key: str) -> bytes | None:
        """The object, None if there is none."""
        found = sync(self.zarr_store.get(self.prefix + key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts as one object."""
        buffer = default_buffer_prototype().buffer.from_bytes(b"".join(parts))
        sync(self.zarr_store.set(self.prefix + key, buffer))

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        buffer = default_buffer_prototype().buffer.from_bytes(data)
        sync(self.zarr_store.set_if_not_exists(self.prefix + key, buffer))
        return self.get(key) == data

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        sync(self.zarr_store.delete(self.prefix + key))

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""

        async def listed() -> list[str]:
            return [key async for key in self.zarr_store.list_prefix(self.prefix + under)]

        yield from (key.removeprefix(self.prefix) for key in sync(listed()))

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""

        async def listed() -> list[str]:
            return [key async for key in self.zarr_store.list_dir(self.prefix + under)]

        return [name.rstrip("/") for name in sync(listed()) if name != "zarr.json"]

    def tidy(self, under: str = "") -> None:
        """Nothing to do: what zarr's store leaves behind is its own."""


def blobs_at(where: Any) -> Blobs:
    """The objects at a path, a URL, an obstore store, a zarr store or a zarr group."""
    if is_url(where):
        path = local_path(where)
        return (
            FileBlobs(path) if path else ObjectBlobs(_from_url(where), "", location=redact(where))
        )
    if isinstance(where, (str, os.PathLike)):
        return FileBlobs(Path(where))
    if isinstance(where, zarr.Group):
        return _of_zarr(where.store, where.path.strip("/"))
    if isinstance(where, AnyZarrStore):
        return _of_zarr(where, "")
    if type(where).__module__.partition(".")[0] == "obstore":
        return _of_obstore(where, "")
    raise TypeError(
        f"{type(where).__name__} is no place for a Zarr store. "
        "Give a path, a URL, an obstore store, a zarr store or a zarr group."
    )


def _of_zarr(store: AnyZarrStore, path: str) -> Blobs:
    # Files and objects are put by us: in one step, and without a turn of zarr's event loop.
    if type(store) is zarr.storage.LocalStore and not store.read_only:
        return FileBlobs(store.root / path)
    if type(store) is zarr.storage.ObjectStore and not store.read_only:
        return _of_obstore(store.store, path)
    return ZarrBlobs(store, f"{path}/" if path else "")


def _of_obstore(store: Any, path: str) -> Blobs:
    if isinstance(store, obstore.store.LocalStore) and store.prefix is not None:
        return FileBlobs(Path(store.prefix) / path)  # its errors carry no errno
    shown = "memory://" if isinstance(store, obstore.store.MemoryStore) else repr(store)
    prefix = f"{path}/" if path else ""
    return ObjectBlobs(store, prefix, location=redact(shown) + f" {path}".rstrip())


def _from_url(url: str) -> Any:
    options: dict[str, Any] = {} if url.startswith("memory:") else {"client_options": _CLIENT}
    try:
        return obstore.store.from_url(url, **options)
    except (ObstoreError, ValueError):
        known = "file://, s3://, gs://, az://, https:// or memory://"
    # Not chained: the error of obstore shows the whole URL.
    raise FormatError(f"{redact(url)} is no URL of an object store. Use a path, {known}.")
