"""Objects of an object store, through obstore.

Owned here: the requests. How long they are tried, and what their failures are, is `blobs_service`.
"""

from __future__ import annotations

from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import obstore
import zarr.storage
from obstore.exceptions import AlreadyExistsError
from obstore.exceptions import BaseError as ObstoreError
from zarr.abc.store import Store as AnyZarrStore

from jaxstore.errors import FormatError
from jaxstore.stores.blobs_ahead import Found, fetch_ahead
from jaxstore.stores.blobs_service import persist
from jaxstore.stores.plain_files import ANY_BYTES, Array, check_size, split_into

MULTIPART_BYTES = 64 << 20  # below, one request per object; S3 takes up to 5 GiB in one
_LOCAL = (obstore.store.LocalStore, obstore.store.MemoryStore)


class ObjectBlobs:
    """Objects of an obstore store below a prefix; failures are those of `blobs_service`."""

    def __init__(self, store: Any, prefix: str, *, location: str) -> None:
        self._store = store
        self.prefix = prefix
        self.location = location
        self.zarr_store: AnyZarrStore = zarr.storage.ObjectStore(store)
        self.is_remote = not isinstance(store, _LOCAL)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self.location}: what is open on an object store is not pickled, since credentials "
            "would go with it. Send its URL, and open it there."
        )

    def below(self, folder: str) -> ObjectBlobs:
        """The objects in a folder, as a place of their own."""
        location = f"{self.location}/{folder}"
        return ObjectBlobs(self._store, f"{self.prefix}{folder}/", location=location)

    def fresh(self) -> ObjectBlobs:
        """The same place as readers find it: as it is."""
        return self

    def get(self, key: str, most_bytes: int = ANY_BYTES) -> bytes | None:
        """The object, None if there is none."""
        found = self._found(key, most_bytes)
        return None if found is None else bytes(found)

    def get_view(self, key: str, most_bytes: int, take: Callable[[int], Array]) -> Array | None:
        """As `get`, as the bytes that obstore gave."""
        found = self._found(key, most_bytes)
        return None if found is None else np.frombuffer(found, np.uint8)

    def get_into(self, key: str, parts: Sequence[Array]) -> bool:
        """Fill the parts with the object; whether there is one."""
        data = self.get_view(key, sum(part.nbytes for part in parts), np.empty)
        if data is not None:
            split_into(key, data, parts, location=self.location)
        return data is not None

    def get_many(self, keys: Iterable[str], most_bytes: int) -> Iterator[Found]:
        """As `get` of each key, several at once."""

        async def fetch(key: str) -> tuple[str, Found]:
            try:
                found = await obstore.get_async(self._store, self.prefix + key)
                check_size(key, found.meta["size"], most_bytes, location=self.location)
                return key, bytes(await found.bytes_async())
            except FormatError as error:
                return key, error
            except (ObstoreError, FileNotFoundError):
                return key, None

        for key, found in fetch_ahead(keys, fetch):
            # What failed is asked for once more where failures are told apart and tried again.
            yield self.get(key, most_bytes) if found is None else found

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts as one object."""
        data = b"".join(parts)
        multipart = len(data) > MULTIPART_BYTES
        where = (self._store, self.prefix + key, data)
        self._persist(f"putting {key!r}", lambda: obstore.put(*where, use_multipart=multipart))

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""

        def put() -> bool:
            try:
                obstore.put(self._store, self.prefix + key, data, mode="create")
            except AlreadyExistsError as error:
                taken = error
            else:
                return True
            # A put whose answer was lost is sent again and then finds itself there.
            found = self.get(key)
            if found is None:
                raise taken  # only by a request that was under way, and left nothing
            return found == data

        return self._persist(f"putting {key!r}", put)

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        self._persist(f"deleting {key!r}", lambda: obstore.delete(self._store, self.prefix + key))

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""
        yield from (key for key, _ in self._listed(under))

    def stamps(self, under: str) -> Iterator[tuple[str, str]]:
        """Key, and ETag or time, of each object in a folder and the folders in it."""
        for key, entry in self._listed(under):
            tag = entry.get("e_tag") or entry["last_modified"].isoformat()
            yield key, f"{entry['size']} {tag}"

    def _listed(self, under: str) -> Iterator[tuple[str, Any]]:
        """Keys below a folder, each once, with what the service tells of the object."""
        seen: set[str] = set()
        batches = obstore.list(self._store, self._folder(under))

        def advance() -> Sequence[Any]:
            nonlocal batches
            try:
                return next(batches, ())
            except ObstoreError:  # it goes no further; what it gave comes once more
                batches = obstore.list(self._store, self._folder(under))
                raise

        while batch := self._persist(f"listing {under!r}", advance):
            fresh = [entry for entry in batch if entry["path"] not in seen]
            seen.update(entry["path"] for entry in fresh)
            yield from ((entry["path"].removeprefix(self.prefix), entry) for entry in fresh)

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        found = self._persist(
            f"listing {under!r}",
            lambda: obstore.list_with_delimiter(self._store, self._folder(under)),
        )
        return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def tidy(self) -> None:
        """Nothing to do: an object is there whole or not at all."""

    def sync(self) -> None:
        """Nothing to do: what the server has taken, it keeps."""

    def publish(self, message: str) -> None:
        """Nothing to do: what was put is seen."""

    def _found(self, key: str, most_bytes: int) -> Buffer | None:
        def get() -> Buffer | None:
            try:
                found = obstore.get(self._store, self.prefix + key)
                check_size(key, found.meta["size"], most_bytes, location=self.location)
                return found.bytes()
            except FileNotFoundError:
                return None

        return self._persist(f"reading {key!r}", get)

    def _persist[T](self, doing: str, call: Callable[[], T]) -> T:
        return persist(call, place=self.location, doing=doing)

    def _folder(self, under: str) -> str | None:
        return (self.prefix + under).rstrip("/") or None
