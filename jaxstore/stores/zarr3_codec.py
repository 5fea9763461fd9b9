"""How a chunk becomes the bytes of its object in Zarr v3, and back.

Owned here: little-endian bytes, then Blosc, then crc32c, done by hand with the functions that
zarr itself calls. zarr's own path takes 1 ms per chunk and cannot write beyond the shape.
"""

from __future__ import annotations

import math
from collections.abc import Buffer
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc

from jaxstore.stores.frames import blosc_bytes
from jaxstore.stores.limits import MOST_CHUNK_BYTES

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_HEADER_BYTES = 16  # that Blosc adds at most
# Measured on chunks of 4 MiB, one thread: encode MB/s and ratio. "mcmc" is a random walk with 100
# floats a draw of which 40 % are accepted, "nuts" independent draws with scales and offsets.
#                                       normal f4    normal f8    mcmc f4      nuts f4
#   zstd 1, shuffle,    1 MiB blocks    1189 1.19    2178 1.13    1435 3.17    2123 1.31
#   zstd 1, shuffle,    automatic        810 1.08     766 1.07     547 3.02    1093 1.29
#   zstd 3, bitshuffle, automatic        912 1.13     709 1.11     213 1.90     605 1.28
#   zstd 1, bitshuffle, 1 MiB blocks    1680 1.16    2001 1.12     913 2.03    1351 1.29
#   lz4 1,  shuffle,    1 MiB blocks    1868 1.06    4183 1.06    2321 2.46    4625 1.28
# Byte shuffle lines repeated rows up, which is what a sampler that rejects writes. Blosc's own
# smaller blocks cost half the speed. Bits of bool are worth shuffling: 9.0 against 5.3.
_CLEVEL = 1
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blosc:
    """Settings of the Blosc codec, as they stand in zarr.json."""

    cname: str
    clevel: int
    shuffle: str
    typesize: int
    blocksize: int


def check_compression(compression: str | None) -> None:
    """Refuse what is no compression."""
    if compression not in (None, "zstd", "lz4"):
        raise ValueError(f"compression must be 'zstd', 'lz4' or None, got {compression!r}")


def blosc_for(compression: str | None, dtype: np.dtype[Any]) -> Blosc | None:
    """Settings for one of the compressions that a caller can choose."""
    if compression is None:
        return None
    shuffle = "bitshuffle" if dtype.kind == "b" else "shuffle"
    return Blosc(compression, _CLEVEL, shuffle, dtype.itemsize, _BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """Encodes and decodes whole chunks of one array."""

    shape: tuple[int, ...]  # of a chunk
    dtype: np.dtype[Any]  # stored, native
    fill: np.generic[Any]
    blosc: Blosc | None
    checksum: bool

    def __post_init__(self) -> None:
        if self.n_bytes > MOST_CHUNK_BYTES:
            raise ValueError(
                f"a chunk of {self.shape} {self.dtype} has {self.n_bytes} bytes, more than "
                f"{MOST_CHUNK_BYTES} are not stored. Choose smaller chunks."
            )

    @property
    def n_bytes(self) -> int:
        """Size of a decoded chunk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def blank(self) -> Array:
        """A chunk of fill values."""
        return np.full(self.shape, self.fill, self.dtype)

    def encode(self, chunk: Array) -> list[Buffer]:
        """Pieces of the object; contiguous values that are not compressed are not copied."""
        bits = np.ascontiguousarray(chunk, self.dtype.newbyteorder("<"))
        # As bytes, and flat: a chunk of no dimensions has no bytes that could be viewed.
        data: Buffer = bits.reshape(-1).view(np.uint8)
        if self.blosc is not None:
            data = _compress(data, self.blosc)
        if not self.checksum:
            return [data]
        return [data, google_crc32c.value(data).to_bytes(4, "little")]

    @property
    def most_bytes(self) -> int:
        """Size that an encoded chunk never exceeds."""
        return self.n_bytes + _HEADER_BYTES * (self.blosc is not None) + 4 * self.checksum

    def decode(self, data: bytes) -> Array:
        """The chunk, writable; never takes more memory than a chunk has.

        Raises:
            ValueError: The bytes are damaged.
        """
        body = self._body(data)
        chunk = np.empty(self.shape, self.dtype.newbyteorder("<"))
        self._unpack(body, chunk)
        return chunk.astype(self.dtype, copy=False)

    def decode_into(self, data: bytes, chunk: Array) -> None:
        """As `decode`, into an array of the chunk's shape that is already there.

        Raises:
            ValueError: The bytes are damaged.
        """
        if chunk.flags.c_contiguous and chunk.dtype == self.dtype.newbyteorder("<"):
            self._unpack(self._body(data), chunk)
        else:
            chunk[...] = self.decode(data)

    def _body(self, data: bytes) -> Array:
        """What is packed, checked."""
        body = np.frombuffer(data, np.uint8)  # google_crc32c takes no memoryview
        if self.checksum:
            body, crc = body[:-4], body[-4:]
            if google_crc32c.value(body).to_bytes(4, "little") != crc.tobytes():
                raise ValueError("the checksum does not match the bytes")
        n_bytes = len(body) if self.blosc is None else blosc_bytes(body)
        if n_bytes != self.n_bytes:
            raise ValueError(f"it holds {n_bytes} bytes, a chunk has {self.n_bytes}")
        return body

    def _unpack(self, body: Array, chunk: Array) -> None:
        bits = chunk.reshape(-1).view(np.uint8)
        if self.blosc is None:
            bits[:] = body
        else:
            _decompress(body, bits)

    def document(self) -> list[Json]:
        """The codecs as zarr.json lists them."""
        codecs: list[Json] = [{"name": "bytes", "configuration": {"endian": "little"}}]
        if self.blosc is not None:
            settings = {key: getattr(self.blosc, key) for key in Blosc.__slots__}
            codecs.append({"name": "blosc", "configuration": settings})
        return [*codecs, {"name": "crc32c"}] if self.checksum else codecs


def _compress(data: Buffer, settings: Blosc) -> bytes:
    packed: bytes = blosc.compress(
        data,
        settings.cname.encode(),
        settings.clevel,
        _SHUFFLES[settings.shuffle],
        settings.blocksize,
        settings.typesize,
    )
    return packed


def _decompress(data: Buffer, bits: Array) -> None:
    try:
        blosc.decompress(data, bits)
    except RuntimeError as error:
        raise ValueError(f"Blosc cannot decode it ({error})") from None
