"""How the bytes of a stored chunk become its values, written where they belong.

Owned here: the codecs that most arrays use, decoded by hand, and zarr's own pipeline for all
others. Shards, which are chunks of chunks, are `fetch_zarr_shard`; which codec an array has is
`fetch_zarr_metadata`.
"""

from __future__ import annotations

import gzip
import lzma
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import google_crc32c
import numpy as np
import zarr.errors
from zarr.abc.codec import CodecPipeline
from zarr.core.array_spec import ArraySpec
from zarr.core.sync import sync

from jaxstore.sources.fetch_scratch import Scratch
from jaxstore.sources.geometry import Array
from jaxstore.stores.frames import blosc_bytes, unpack, zstd_bytes

_CRC_BYTES = 4
_SPARE_BYTES = 4096  # what an encoder adds to a small chunk, and what one adds to a shard
_MOST_GROWTH = 32  # of a chunk by filters that are not known here: text of small integers, say
# What codecs raise for bytes that are wrong; those of zarr call many libraries.
_FAULTS = (
    *(ValueError, RuntimeError, TypeError, LookupError, EOFError, ArithmeticError),
    *(zlib.error, gzip.BadGzipFile, lzma.LZMAError, OSError, zarr.errors.BaseZarrError),
)


class ChunkCodec(Protocol):
    """Decodes the chunks of one array, from several threads at once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a chunk."""
        ...

    @property
    def most_bytes(self) -> int:
        """Size that an encoded chunk never exceeds."""
        ...

    def decode(self, data: Array, part: Array, scratch: Scratch) -> None:
        """Write what a chunk holds from its first corner on.

        Args:
            data: The chunk as it is stored, as bytes.
            part: Where it belongs, in the order of the stored axes; smaller than a chunk at the
                end of an array. Of the stored dtype in native byte order.
            scratch: For chunks that have to be decoded aside.

        Raises:
            ValueError: The bytes are damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """Values as bytes, perhaps packed, perhaps with a crc32c after them."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # as stored, byte order included
    order: tuple[int, ...]  # of the axes in the bytes, slowest first
    packing: str | None  # one of `frames.PACKINGS`
    has_crc: bool

    @property
    def n_bytes(self) -> int:
        """Size of a decoded chunk."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def most_bytes(self) -> int:
        """Size that an encoded chunk never exceeds; without packing it always has it."""
        crc_bytes = _CRC_BYTES * self.has_crc
        if self.packing is None:
            return self.n_bytes + crc_bytes
        return self.n_bytes + self.n_bytes // 64 + _SPARE_BYTES + crc_bytes

    def place(self, part: Array) -> Array | None:
        """The bytes of a part if a decoded chunk can lie there as it is."""
        turned = part.transpose(self.order)
        is_same = part.shape == self.shape and part.dtype == self.dtype
        return turned.reshape(-1).view(np.uint8) if is_same and turned.flags.c_contiguous else None

    def raw_places(self, part: Array) -> list[Array] | None:
        """Where a stored chunk can be read to without a copy, None if it has to be decoded."""
        place = self.place(part) if self.packing is None else None
        if place is None:
            return None
        return [place, np.empty(_CRC_BYTES, np.uint8)] if self.has_crc else [place]

    def check(self, places: Sequence[Array]) -> None:
        """Compare the checksum of what was read to `raw_places`.

        Raises:
            ValueError: It differs.
        """
        if self.has_crc:
            _check_crc(*places)

    def decode(self, data: Array, part: Array, scratch: Scratch) -> None:
        """Write what a chunk holds from its first corner on."""
        if self.has_crc:
            data, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
            _check_crc(data, crc)
        place = self.place(part)
        if self.packing is not None:
            bits = scratch.decoded(self.n_bytes) if place is None else place
            unpack(self.packing, data, bits)
        elif data.nbytes != self.n_bytes:
            raise ValueError(f"it holds {data.nbytes} bytes, a chunk has {self.n_bytes}")
        elif place is None:
            bits = data
        else:
            place[:] = data
        if place is None:
            turned = bits.view(self.dtype).reshape([self.shape[axis] for axis in self.order])
            part[...] = turned.transpose(np.argsort(self.order))[extent_of(part)]


@dataclass(frozen=True, slots=True)
class PipelineCodec:
    """Any codecs that zarr knows, by zarr's pipeline on its event loop."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # native
    pipeline: CodecPipeline
    spec: ArraySpec
    packing: str | None  # what packs last, if it is Blosc or Zstandard

    @property
    def most_bytes(self) -> int:
        """Size beyond which a chunk, encoded or between two codecs, is not believed."""
        return _MOST_GROWTH * math.prod(self.shape) * self.dtype.itemsize + (1 << 20)

    def decode(self, data: Array, part: Array, scratch: Scratch) -> None:
        """Write what a chunk holds from its first corner on."""
        declared = None
        if self.packing is not None:
            declared = blosc_bytes(data) if self.packing == "blosc" else zstd_bytes(data)
        if declared is not None and declared > self.most_bytes:
            raise ValueError(f"it says that it holds {declared} bytes")
        found = self.spec.prototype.buffer.from_array_like(data)
        try:
            (chunk,) = sync(self.pipeline.decode([(found, self.spec)]))
        except _FAULTS as error:
            raise ValueError(str(error) or type(error).__name__) from error
        values = None if chunk is None else np.asarray(chunk.as_numpy_array())
        if values is None or values.shape != self.shape:
            raise ValueError(f"it does not hold a chunk of {self.shape}")
        if values.dtype.newbyteorder("=") != self.dtype:
            raise ValueError(f"it holds {values.dtype}, the array is {self.dtype}")
        part[...] = values[extent_of(part)]


def extent_of(part: Array) -> tuple[slice, ...]:
    """The values of a chunk that a part of the array takes."""
    return tuple(slice(n) for n in part.shape)


def _check_crc(data: Array, crc: Array) -> None:
    if google_crc32c.value(data).to_bytes(_CRC_BYTES, "little") != crc.tobytes():
        raise ValueError("the checksum does not match the bytes")
