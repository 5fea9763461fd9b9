"""Compressed bytes of foreign chunks: how much they hold, and unpacking them where that belongs.

Owned here: the formats of Zstandard, Blosc, LZ4, gzip and zlib that readers of every format share.
What a header declares is compared before anything is unpacked, since a few bytes can declare
gigabytes, and since Blosc reads on beyond bytes that were cut short.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numcodecs import blosc, lz4, zstd

Array = np.ndarray[Any, Any]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOSC_HEADER_BYTES = 16
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS  # as zlib numbers the two envelopes
_PIECE_BYTES = 1 << 16  # of packed bytes at a time, so that what they unpack to stays small


def zstd_bytes(data: Array) -> int | None:
    """What the header of a frame declares (RFC 8878, section 3.1.1.1), None for nothing.

    Raises:
        ValueError: It is no such frame.
    """
    head = data[:18].tobytes()
    if head[:4] != _ZSTD_MAGIC or len(head) < 6:
        raise ValueError("it does not begin as a frame of zstd")
    flags = head[4]
    is_single = flags >> 5 & 1
    size_bytes = (is_single, 2, 4, 8)[flags >> 6]
    at = 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3]
    declared = int.from_bytes(head[at : at + size_bytes], "little")
    return declared + 256 * (size_bytes == 2) if size_bytes else None


def blosc_bytes(data: Array) -> int:
    """What the header of Blosc declares.

    Raises:
        ValueError: It declares another length of its own; Blosc itself would read on beyond it.
    """
    head = data[:_BLOSC_HEADER_BYTES].tobytes()
    if len(head) < _BLOSC_HEADER_BYTES:
        raise ValueError(f"it has {data.nbytes} bytes, fewer than a header of Blosc")
    n_packed = int.from_bytes(head[12:16], "little")
    if n_packed != data.nbytes:
        raise ValueError(f"it has {data.nbytes} bytes, its header says {n_packed}")
    return int.from_bytes(head[4:8], "little")


def unpack(packing: str, data: Array, bits: Array) -> None:
    """Unpack into bytes that are already there, all of them.

    Args:
        packing: One of `PACKINGS`.
        data: Packed bytes.
        bits: Where they go; contiguous bytes.

    Raises:
        ValueError: The bytes are damaged, or hold more or less.
    """
    try:
        _UNPACK[packing](data, bits)
    except (RuntimeError, zlib.error) as error:
        raise ValueError(f"it cannot be decoded ({error})") from None


def _unpack_zstd(data: Array, bits: Array) -> None:
    declared = zstd_bytes(data)
    if declared is not None:  # a frame that was streamed; numcodecs then wants the exact size
        _compare(declared, bits)
    zstd.decompress(data, bits)


def _unpack_blosc(data: Array, bits: Array) -> None:
    _compare(blosc_bytes(data), bits)
    blosc.decompress(data, bits)


def _unpack_lz4(data: Array, bits: Array) -> None:
    if data.nbytes < 4:
        raise ValueError("it is cut short")
    _compare(int.from_bytes(data[:4].tobytes(), "little"), bits)
    lz4.decompress(data, bits)


def _unpack_deflate(data: Array, bits: Array, *, envelope: int) -> None:
    """As zlib gives it, which cannot write into memory that is there."""
    inflate, at, ended = zlib.decompressobj(envelope), 0, False
    for start in range(0, data.nbytes, _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES].tobytes()
        while piece:
            if ended:  # gzip allows several members, one after the other
                inflate = zlib.decompressobj(envelope)
            part = inflate.decompress(piece, bits.nbytes - at + 1)
            if at + len(part) > bits.nbytes:
                raise ValueError(f"it holds more than the {bits.nbytes} bytes of a chunk")
            bits[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at, ended = at + len(part), inflate.eof
            piece = inflate.unused_data if ended else inflate.unconsumed_tail
    if not ended or at != bits.nbytes:
        raise ValueError(f"it is cut short: it holds {at} bytes, a chunk has {bits.nbytes}")


def _compare(declared: int, bits: Array) -> None:
    if declared != bits.nbytes:
        raise ValueError(f"it says that it holds {declared} bytes, a chunk has {bits.nbytes}")


_UNPACK: Mapping[str, Callable[[Array, Array], None]] = {
    "zstd": _unpack_zstd,
    "blosc": _unpack_blosc,
    "lz4": _unpack_lz4,
    "gzip": partial(_unpack_deflate, envelope=_GZIP),
    "zlib": partial(_unpack_deflate, envelope=_ZLIB),
}
PACKINGS = frozenset(_UNPACK)
