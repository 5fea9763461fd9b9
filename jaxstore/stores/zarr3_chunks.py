"""The chunk objects of one Zarr v3 array.

Owned here: which object a chunk is, and merging what covers a chunk in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxstore.stores.blobs import Blobs
from jaxstore.stores.geometry import chunk_regions
from jaxstore.stores.zarr3_codec import ChunkCodec

Array = np.ndarray[Any, Any]


class Chunks:
    """Chunks by index, below the folder "c" of their array."""

    def __init__(self, blobs: Blobs, name: str, codec: ChunkCodec) -> None:
        self._blobs = blobs
        self._folder = f"{name}/c"
        self._codec = codec

    def write(self, start: Sequence[int], bits: Array) -> None:
        """Put stored bits at an offset; the rest of a chunk covered in part is kept."""
        for part in chunk_regions(start, bits.shape, self._codec.shape):
            chunk = bits[part.in_values]
            if not part.is_whole:
                merged = self.chunk(part.index)
                merged[part.in_chunk] = chunk
                chunk = merged
            self._blobs.put(self._key(part.index), self._codec.encode(chunk))

    def chunk(self, index: tuple[int, ...]) -> Array:
        """A stored chunk, or fill values where there is none.

        Raises:
            ValueError: It is damaged.
        """
        data = self._blobs.get(self._key(index))
        return self._codec.blank() if data is None else self._codec.decode(data)

    def damage(self, start: Sequence[int], shape: Sequence[int]) -> str | None:
        """What is wrong with the first damaged chunk of a region, None if all are sound."""
        for part in chunk_regions(start, shape, self._codec.shape):
            try:
                self.chunk(part.index)
            except ValueError as error:
                return f"chunk {part.index} is damaged: {error}"
        return None

    def remove_beyond(self, shape: Sequence[int]) -> None:
        """Remove the chunks that lie wholly beyond a shape."""
        for key in list(self._blobs.keys(self._folder)):
            index = [
                int(part) for part in key[len(self._folder) + 1 :].split("/") if part.isdigit()
            ]
            axes = zip(index, self._codec.shape, shape, strict=False)  # short for a leftover
            if any(i * n_chunk >= n for i, n_chunk, n in axes):
                self._blobs.delete(key)

    def _key(self, index: tuple[int, ...]) -> str:
        return "/".join([self._folder, *map(str, index)])
