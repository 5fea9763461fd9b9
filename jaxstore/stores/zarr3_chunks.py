"""The chunk objects of one Zarr v3 array, in the codec that jaxstore writes.

Owned here: which object a chunk is, merging what covers a chunk in part, and what to say of a
chunk that cannot be read. Arrays in other codecs are `zarr3_foreign`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.stores.blobs import Blobs
from jaxstore.stores.geometry import ChunkRegion, chunk_regions
from jaxstore.stores.zarr3_codec import ChunkCodec

Array = np.ndarray[Any, Any]


class Chunks:
    """Chunks by index, below the folder "c" of their array."""

    def __init__(self, blobs: Blobs, name: str, codec: ChunkCodec) -> None:
        self._blobs = blobs
        self._name = name
        self._folder = f"{name}/c"
        self._codec = codec

    def write(self, start: Sequence[int], bits: Array) -> None:
        """Put stored bits at an offset; the rest of a chunk covered in part is kept.

        Raises:
            FormatError: A chunk covered in part is damaged.
        """
        for part in chunk_regions(start, bits.shape, self._codec.shape):
            chunk = bits[part.in_values]
            if not part.is_whole:
                merged = self._whole(part.index)
                merged[part.in_chunk] = chunk
                chunk = merged
            self._blobs.put(self._key(part.index), self._codec.encode(chunk))

    def read(self, start: Sequence[int], shape: Sequence[int], *, is_strict: bool = False) -> Array:
        """Stored bits of a region.

        Args:
            start: First corner.
            shape: Extent.
            is_strict: Whether absent chunks are an error; else they are fill values.

        Raises:
            FormatError: A chunk is damaged, or absent.
        """
        bits = np.empty(shape, self._codec.dtype)
        for part, data in self._fetched(start, shape):
            if isinstance(data, FormatError):
                raise self._damaged(part.index, data) from data
            whole: Any = (*part.in_values, ...)  # so that it is a view, of no axes too
            target = bits[whole]
            if data is None:
                if is_strict:
                    raise self._unreadable(f"chunk {part.index} is absent")
                target[...] = self._codec.fill
                continue
            try:
                if part.is_whole:
                    self._codec.decode_into(data, target)
                else:
                    target[...] = self._codec.decode(data)[part.in_chunk]
            except ValueError as error:
                raise self._damaged(part.index, error) from error
        return bits

    def damage(self, start: Sequence[int], shape: Sequence[int]) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        for part, data in self._fetched(start, shape):
            try:
                if isinstance(data, FormatError):
                    raise data
                if data is None:
                    yield f"chunk {part.index} is absent"
                else:
                    self._codec.decode(data)
            except ValueError as error:
                yield _told(part.index, error)

    def remove_beyond(self, shape: Sequence[int]) -> None:
        """Remove the chunks that lie wholly beyond a shape."""
        for key in list(self._blobs.keys(self._folder)):
            index = [
                int(part) for part in key[len(self._folder) + 1 :].split("/") if part.isdigit()
            ]
            axes = zip(index, self._codec.shape, shape, strict=False)  # short for a leftover
            if any(i * n_chunk >= n for i, n_chunk, n in axes):
                self._blobs.delete(key)

    def _whole(self, index: tuple[int, ...]) -> Array:
        """A stored chunk, or fill values where there is none."""
        try:
            data = self._blobs.get(self._key(index), self._codec.most_bytes)
            return self._codec.blank() if data is None else self._codec.decode(data)
        except ValueError as error:
            raise self._damaged(index, error) from error

    def _fetched(
        self, start: Sequence[int], shape: Sequence[int]
    ) -> Iterator[tuple[ChunkRegion, bytes | FormatError | None]]:
        """The parts of a region, with the encoded chunk of each."""
        # Lazily: what declares 2^45 chunks is refused or given up long before the last one.
        parts, ahead = itertools.tee(chunk_regions(start, shape, self._codec.shape))
        keys = (self._key(part.index) for part in ahead)
        found = self._blobs.get_many(keys, self._codec.most_bytes)
        return zip(parts, found, strict=True)

    def _damaged(self, index: tuple[int, ...], error: ValueError) -> FormatError:
        return self._unreadable(_told(index, error))

    def _unreadable(self, what: str) -> FormatError:
        return FormatError(
            f"{self._name!r} in {self._blobs.location}: {what}. Restore it from a copy, or write "
            "it again."
        )

    def _key(self, index: tuple[int, ...]) -> str:
        return "/".join([self._folder, *map(str, index)])


def _told(index: tuple[int, ...], error: ValueError) -> str:
    return f"chunk {index} is damaged: {str(error).rstrip('.')}"
