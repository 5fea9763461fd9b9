"""Shards: stored chunks that hold chunks and an index of them.

Owned here: taking a shard that was read as a whole apart. Reading it by parts would be one request
per inner chunk, for rows that are all needed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstore.sources.fetch_scratch import Scratch
from jaxstore.sources.fetch_zarr_codec import ChunkCodec, PlainCodec
from jaxstore.sources.geometry import Array

_ABSENT = 2**64 - 1  # as offset and size of an inner chunk


@dataclass(frozen=True, slots=True)
class ShardCodec:
    """Inner chunks in any order, and where each lies, at the end or at the beginning."""

    shape: tuple[int, ...]
    inner: ChunkCodec
    index: PlainCodec  # of (*inner chunks per axis, 2) offsets and sizes
    is_index_first: bool
    fill: np.generic[Any]
    is_strict: bool  # whether absent inner chunks are an error

    @property
    def most_bytes(self) -> int:
        """Size that a shard never exceeds; what was rewritten may have left gaps as large."""
        n_inner = math.prod(self.index.shape[:-1])
        return self.index.most_bytes + 2 * n_inner * self.inner.most_bytes

    def decode(self, data: Array, part: Array, scratch: Scratch) -> None:
        """Write what a shard holds from its first corner on."""
        index = self._index(data, scratch)
        sizes = self.inner.shape
        counts = [-(-n // size) for n, size in zip(part.shape, sizes, strict=True)]
        for at in itertools.product(*map(range, counts)):
            corner = zip(at, sizes, strict=True)
            target = part[tuple(slice(i * size, (i + 1) * size) for i, size in corner)]
            offset, n_bytes = index[at].tolist()
            if offset == n_bytes == _ABSENT:
                if self.is_strict:
                    raise ValueError(f"inner chunk {at} is absent")
                target[...] = self.fill
                continue
            if offset + n_bytes > data.nbytes:
                raise ValueError(f"inner chunk {at} lies beyond the end")
            try:
                self.inner.decode(data[offset : offset + n_bytes], target, scratch)
            except ValueError as error:
                raise ValueError(f"inner chunk {at}: {error}") from error

    def _index(self, data: Array, scratch: Scratch) -> Array:
        n_bytes = self.index.most_bytes
        if data.nbytes < n_bytes:
            raise ValueError(f"it has {data.nbytes} bytes, its index alone takes {n_bytes}")
        packed = data[:n_bytes] if self.is_index_first else data[data.nbytes - n_bytes :]
        index = np.empty(self.index.shape, np.uint64)
        try:
            self.index.decode(packed, index, scratch)
        except ValueError as error:
            raise ValueError(f"in its index {error}") from error
        return index
