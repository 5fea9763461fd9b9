"""The bytes of one HDF5 chunk decoded into place, outside HDF5's lock.

Owned here: which filters are decoded without HDF5, and how. Where the bytes lie is
`fetch_hdf5_direct`.

The streams of gzip, zstd and lz4 are given to Blosc with a header of one block before them. Blosc
then unpacks and unshuffles in one pass without the interpreter's lock, straight to where the rows
belong, and never writes more than the chunk has, whatever the stream says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numcodecs
import numpy as np
from numcodecs import blosc

from jaxstore.sources.geometry import Array
from jaxstore.stores.frames import unpack
from jaxstore.stores.hdf5_codec import Filter
from jaxstore.stores.limits import MOST_CHUNK_BYTES

_SHUFFLE, _FLETCHER, _GZIP = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, 1
_BLOSC, _LZ4, _ZSTD = 32001, 32004, 32015  # as registered with the HDF Group
_PACKING = (_GZIP, _BLOSC, _LZ4, _ZSTD)
# Blosc's numbers of codecs, in the options of the filter; numcodecs is built without snappy (3).
_BLOSC_CODECS = {0: "blosclz", 1: "lz4", 2: "lz4hc", 4: "zlib", 5: "zstd"}
# The header of a Blosc 1 frame whose only block is not split: version of the format and of the
# codec, flags, bytes per item, bytes of the data, of a block, of the frame; then where the block
# begins in the frame, and its bytes.
_HEADER = struct.Struct("<BBBBIIIII")
_LZ4_FORMAT, _ZLIB_FORMAT, _ZSTD_FORMAT = 1, 3, 4
_WHOLE_BLOCK, _SHUFFLED = 0x10, 0x01
HEAD_BYTES = _HEADER.size  # before the bytes of a chunk, where a header is written
TAIL_BYTES = 8  # after them
# A block as long as what it holds is taken as not packed. A stream of just that length is made
# longer by what its codec skips: a spare byte, or an empty skippable frame (RFC 8878, 3.1.2).
_PADDING = {_ZLIB_FORMAT: b"\0", _ZSTD_FORMAT: b"\x50\x2a\x4d\x18\0\0\0\0"}
_FLETCHER32 = numcodecs.Fletcher32()

Spare = Callable[[int], Array]  # so many bytes of memory to work in


@dataclass(frozen=True, slots=True)
class ChunkDecoder:
    """Decodes the chunks of one dataset."""

    n_bytes: int  # of a decoded chunk
    filters: tuple[Filter, ...]  # in the order in which they encode

    def is_plain(self, skipped: int) -> bool:
        """Whether a chunk lies in the file as it is.

        Args:
            skipped: A bit for each filter that was left out of it.
        """
        return not self._used(skipped)

    def decode(self, data: Array, out: Array, *, skipped: int, spare: Spare) -> None:
        """Decode one chunk.

        Args:
            data: Bytes, the chunk's between HEAD_BYTES and TAIL_BYTES others; overwritten.
            out: Bytes of the decoded chunk, contiguous.
            skipped: As for `is_plain`.
            spare: Memory for what cannot be decoded in one pass.

        Raises:
            ValueError: The bytes are damaged.
        """
        used = dict(self._used(skipped))
        stop = data.size - TAIL_BYTES
        if _FLETCHER in used:
            _check_sum(data[HEAD_BYTES:stop])
            stop -= 4
        itemsize = used[_SHUFFLE][0] if _SHUFFLE in used else 1
        packing = next((number for number in used if number in _PACKING), None)
        if packing is None:
            _unshuffle(data[: stop + TAIL_BYTES], out, itemsize=itemsize)
        elif packing in (_GZIP, _ZSTD):
            kind = _ZLIB_FORMAT if packing == _GZIP else _ZSTD_FORMAT
            stop = _pad(data, stop, n_bytes=self.n_bytes, kind=kind)
            _unpack(data[:stop], out, kind=kind, itemsize=itemsize)
        elif packing == _LZ4 and _is_one_block(data[HEAD_BYTES:stop]):
            _unpack_lz4(data[:stop], out, itemsize=itemsize)
        else:
            unpacked = out
            if itemsize > 1:
                whole = spare(HEAD_BYTES + self.n_bytes + TAIL_BYTES)
                unpacked = whole[HEAD_BYTES : HEAD_BYTES + self.n_bytes]
            if packing == _LZ4:
                _unpack_lz4(data[:stop], unpacked, itemsize=1)
            else:
                unpack("blosc", data[HEAD_BYTES:stop], unpacked)
            if itemsize > 1:
                _unshuffle(whole, out, itemsize=itemsize)

    def _used(self, skipped: int) -> list[Filter]:
        return [f for i, f in enumerate(self.filters) if not skipped >> i & 1]


def chunk_decoder(n_bytes: int, filters: Sequence[Filter]) -> ChunkDecoder | None:
    """The decoder of these filters; None if HDF5 has to decode by itself.

    Args:
        n_bytes: Of a decoded chunk.
        filters: In the order in which they encode.
    """
    numbers = [number for number, _ in filters]
    # A shuffle, then a codec, then a checksum is the order in which h5py, netCDF and jaxstore
    # write; another is rare enough for HDF5.
    kinds = [
        0 if number == _SHUFFLE else 1 if number in _PACKING else 2 if number == _FLETCHER else -1
        for number in numbers
    ]
    is_known = -1 not in kinds and kinds == sorted(set(kinds))
    if not is_known or not 0 < n_bytes <= MOST_CHUNK_BYTES:
        return None
    for number, options in filters:
        if number == _BLOSC and (options[6:7] or (0,))[0] not in _BLOSC_CODECS:
            return None
        if number == _SHUFFLE and not (options and 1 <= options[0] <= 255):
            return None
    return ChunkDecoder(n_bytes, tuple(filters))


def _check_sum(data: Array) -> None:
    if data.size < 4:
        raise ValueError("it is cut short")
    try:
        _FLETCHER32.decode(data)
    except RuntimeError:
        raise ValueError("the checksum does not match the bytes") from None


def _pad(data: Array, stop: int, *, n_bytes: int, kind: int) -> int:
    if stop - HEAD_BYTES != n_bytes:
        return stop
    padding = np.frombuffer(_PADDING[kind], np.uint8)
    data[stop : stop + padding.size] = padding
    return stop + padding.size


def _unpack(data: Array, out: Array, *, kind: int, itemsize: int) -> None:
    """Decode a stream that begins at HEAD_BYTES, where the header goes before it."""
    flags = kind << 5 | _WHOLE_BLOCK | (_SHUFFLED if itemsize > 1 else 0)
    if data.size > MOST_CHUNK_BYTES:
        raise ValueError(f"it has {data.size - HEAD_BYTES} bytes, which no such chunk has")
    n_stream = data.size - HEAD_BYTES
    sizes = (out.size, out.size, data.size, HEAD_BYTES - 4, n_stream)
    _HEADER.pack_into(data, 0, 2, 1, flags, itemsize, *sizes)
    _decompress(data, out)


def _unshuffle(data: Array, out: Array, *, itemsize: int) -> None:
    """Put bytes that are not packed in order; in `data` as for `ChunkDecoder.decode`."""
    values = data[HEAD_BYTES:-TAIL_BYTES]
    if values.size != out.size:
        raise ValueError(f"it holds {values.size} bytes, a chunk has {out.size}")
    if itemsize == 1:
        out[:] = values
    else:
        _unpack(data[:-TAIL_BYTES], out, kind=_LZ4_FORMAT, itemsize=itemsize)


def _lz4_head(stream: Array) -> tuple[int, int]:
    """Bytes of the data and of a block, as the filter writes them."""
    if stream.size < 12:
        raise ValueError("it is cut short")
    n_bytes, n_block = struct.unpack(">QI", stream[:12].tobytes())
    return n_bytes, n_block


def _is_one_block(stream: Array) -> bool:
    n_bytes, n_block = _lz4_head(stream)
    return n_block >= n_bytes


def _unpack_lz4(data: Array, out: Array, *, itemsize: int) -> None:
    """Decode the blocks of a stream that begins at HEAD_BYTES, each with its length before it."""
    n_bytes, n_block = _lz4_head(data[HEAD_BYTES:])
    if n_bytes != out.size or not n_block:
        raise ValueError(f"it says that it holds {n_bytes} bytes, a chunk has {out.size}")
    at = HEAD_BYTES + 12
    for start in range(0, n_bytes, n_block):
        n_packed = int.from_bytes(data[at : at + 4].tobytes(), "big")
        at += 4
        if n_packed > data.size - at:
            raise ValueError("it is cut short")
        # The header is written over what was decoded before.
        block = data[at - HEAD_BYTES : at + n_packed]
        _unpack(block, out[start : start + n_block], kind=_LZ4_FORMAT, itemsize=itemsize)
        at += n_packed


def _decompress(frame: Array, out: Array) -> None:
    try:
        blosc.decompress(frame, out)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot be decoded ({error})") from None


def registered(number: int) -> bool:
    """Whether HDF5 has a filter, those of hdf5plugin among them."""
    available: Any = h5py.h5z.filter_avail(number)
    return bool(available)
