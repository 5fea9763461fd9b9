"""Rows of Zarr arrays: v3 and v2, sharded or not, wherever they lie.

Owned here: opening them, and reading one stored chunk, a shard being one, with one request. What
the bytes mean is `fetch_zarr_codec`, requests and their errors are `stores.blobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxstore.errors import FormatError
from jaxstore.sources.axes import Axes, axes_of
from jaxstore.sources.fetch import Index, RowSource, chunks_along, place_in, unreadable
from jaxstore.sources.fetch_scratch import Scratch
from jaxstore.sources.fetch_zarr_codec import PlainCodec
from jaxstore.sources.fetch_zarr_documents import find_arrays
from jaxstore.sources.fetch_zarr_metadata import Stored, stored_array
from jaxstore.sources.geometry import Array, ArrayGeometry
from jaxstore.stores.blobs import Blobs, blobs_at
from jaxstore.stores.zarr3_hierarchy import key_of


def open_zarr_arrays(
    where: Any,
    names: Sequence[str] | None,
    *,
    axis: Axes = 0,
    is_strict: bool,
) -> dict[str, RowSource]:
    """The rows of arrays of one Zarr group, or of one array.

    Args:
        where: A path, a URL that obstore knows, an obstore store, or a zarr store, group or array.
        names: Paths inside the group; None for all arrays of numbers in it and its groups. One
            array alone is named as the last part of its path.
        axis: The sample axis of all, or by name; 0 for those not named.
        is_strict: Whether absent chunks are an error; else they are fill values.

    Raises:
        MissingError: Nothing is there, or no array of a name.
        FormatError: It cannot be read as rows of numbers.
        OSError: It cannot be reached.
    """
    blobs = blobs_at(where, is_reading=True)
    found = find_arrays(blobs, names)
    axes = axes_of(axis, found, location=blobs.location)
    scratch = Scratch()
    sources: dict[str, RowSource] = {}
    for name, node in found.items():
        stored = stored_array(name, node.array, location=blobs.location, is_strict=is_strict)
        geometry = ArrayGeometry(name, stored.shape, stored.chunks, stored.dtype, axes[name])
        sources[name] = ZarrSource(geometry, blobs, node.folder, stored, scratch, is_strict)
    return sources


@dataclass(frozen=True, slots=True)
class ZarrSource:
    """The rows of one Zarr array; see `RowSource`."""

    geometry: ArrayGeometry
    blobs: Blobs
    folder: str  # key of the array
    stored: Stored
    scratch: Scratch
    is_strict: bool

    @property
    def location(self) -> str:
        """Where its store is, without credentials."""
        return self.blobs.location

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network."""
        return self.blobs.is_remote

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """The stored chunks that hold the rows of a chunk."""
        return chunks_along(self.geometry, chunk)

    def read(self, index: Index, rows: Array) -> int:
        """Read and decode one stored chunk into its place; bytes that were fetched."""
        part = place_in(self.geometry, index, rows.view(self.stored.bits))
        try:
            n_bytes = self._fetch(self._key(index), part)
        except ValueError as error:
            raise self._unreadable(index, f"is damaged: {error}") from error
        if n_bytes is not None:
            return n_bytes
        if self.is_strict:
            raise self._unreadable(index, "is absent")
        part[...] = self.stored.fill
        return 0

    def close(self) -> None:
        """Nothing to do: files are closed as soon as they are read."""

    def _fetch(self, key: str, part: Array) -> int | None:
        """Bytes fetched, None if there is no such object."""
        codec = self.stored.codec
        if isinstance(codec, PlainCodec) and (places := codec.raw_places(part)):
            if not self.blobs.get_into(key, places):
                return None
            codec.check(places)
            return codec.most_bytes
        data = self.blobs.get_view(key, codec.most_bytes, self.scratch.encoded)
        if data is None:
            return None
        codec.decode(data, part, self.scratch)
        return int(data.nbytes)

    def _key(self, index: Index) -> str:
        return key_of(self.folder, self.stored.metadata.encode_chunk_key(index))

    def _unreadable(self, index: Index, what: str) -> FormatError:
        return unreadable(self.geometry.name, self.location, index, what)
