"""Keys of any zarr store, through zarr's own event loop.

Owned here: the requests. Their failures are those of the store.
"""

from __future__ import annotations

from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence

import numpy as np
import zarr.storage
from zarr.abc.store import Store as AnyZarrStore
from zarr.core.buffer import Buffer as ZarrBuffer
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from jaxstore.errors import FormatError
from jaxstore.stores.blobs_ahead import Found, fetch_ahead
from jaxstore.stores.plain_files import ANY_BYTES, Array, check_size, split_into
from jaxstore.stores.urls import redact

_LOCAL = (zarr.storage.LocalStore, zarr.storage.MemoryStore, zarr.storage.ZipStore)


class ZarrBlobs:
    """Keys of a zarr store below a prefix, through zarr's own event loop."""

    def __init__(self, store: AnyZarrStore, prefix: str) -> None:
        if isinstance(store, zarr.storage.ZipStore):  # zarr 3.1 reads none that is not open
            sync(zarr.storage.StorePath.open(store, prefix, mode=None))
        self.zarr_store = store
        self.prefix = prefix
        self.location = redact(f"{store}{'/' if prefix else ''}{prefix}").rstrip("/")
        self.is_remote = not isinstance(store, _LOCAL)

    def below(self, folder: str) -> ZarrBlobs:
        """The keys in a folder, as a place of their own."""
        return ZarrBlobs(self.zarr_store, f"{self.prefix}{folder}/")

    def fresh(self) -> ZarrBlobs:
        """The same place as readers find it: as it is."""
        return self

    def get(self, key: str, most_bytes: int = ANY_BYTES) -> bytes | None:
        """The object, None if there is none."""
        return sync(self._get(key, most_bytes))

    def get_view(self, key: str, most_bytes: int, take: Callable[[int], Array]) -> Array | None:
        """As `get`, as the bytes that zarr's store gave."""
        found = sync(self._found(key, most_bytes))
        return None if found is None else found.as_numpy_array()

    def get_into(self, key: str, parts: Sequence[Array]) -> bool:
        """Fill the parts with the object; whether there is one."""
        data = self.get_view(key, ANY_BYTES, np.empty)
        if data is not None:
            split_into(key, data, parts, location=self.location)
        return data is not None

    def get_many(self, keys: Iterable[str], most_bytes: int) -> Iterator[Found]:
        """As `get` of each key, several at once."""

        async def fetch(key: str) -> Found:
            try:
                return await self._get(key, most_bytes)
            except FormatError as error:
                return error

        return fetch_ahead(keys, fetch)

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

    def stamps(self, under: str) -> None:
        """Nothing: zarr's stores do not tell."""

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""

        async def listed() -> list[str]:
            return [key async for key in self.zarr_store.list_dir(self.prefix + under)]

        return [name.rstrip("/") for name in sync(listed()) if name != "zarr.json"]

    def tidy(self) -> None:
        """Nothing to do: what zarr's store leaves behind is its own."""

    def sync(self) -> None:
        """Nothing to do: how long zarr's store keeps what it took is its own."""

    def publish(self, message: str) -> None:
        """Nothing to do: what was put is seen."""

    async def _get(self, key: str, most_bytes: int) -> bytes | None:
        found = await self._found(key, most_bytes)
        return None if found is None else found.to_bytes()

    async def _found(self, key: str, most_bytes: int) -> ZarrBuffer | None:
        found = await self.zarr_store.get(self.prefix + key, default_buffer_prototype())
        if found is not None:
            check_size(key, len(found), most_bytes, location=self.location)
        return found
