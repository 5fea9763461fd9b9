"""Chunks encoded as HDF5's filters would, and decoded, but outside HDF5's lock.

Owned here: the filters of a new dataset, and the bytes of one chunk under the filters of an
existing one. HDF5 itself decodes them too, so any reader with these filters can read the file.

`zstd` is a byte shuffle and Zstandard with the checksum of its frame; `lz4` is Blosc, which
shuffles by itself; without compression, and for `lz4`, fletcher32 is the checksum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import hdf5plugin  # registers the filters, for reading too
import numcodecs
import numpy as np
from numcodecs import blosc, zstd

from jaxstore.errors import FormatError
from jaxstore.stores.frames import unpack

Array = np.ndarray[Any, Any]
Buffer = Any  # bytes, or a contiguous array

ZSTD_LEVEL = 1  # level 3 takes 1.4 to 1.8 times as long on noisy float32 for 2 % fewer bytes
BLOSC_LEVEL = 5  # of numcodecs and hdf5plugin alike
_ZSTD, _BLOSC = hdf5plugin.Zstd.filter_id, hdf5plugin.Blosc.filter_id
_SHUFFLE, _FLETCHER = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32
_BLOSC_LZ4 = 1  # the codec's number in the filter's options
_FLETCHER32 = numcodecs.Fletcher32()

Filter = tuple[int, tuple[int, ...]]  # number and options


def filter_options(compression: str | None, *, checksum: bool) -> dict[str, Any]:
    """Keywords of h5py's `create_dataset` for a chunked dataset.

    Raises:
        FormatError: The compression is not one of those that are written here.
    """
    match compression:
        case None:
            return {"fletcher32": checksum}
        case "zstd":
            # No fletcher32: the frame carries its own checksum, and HDF5's decoder checks it.
            return {"shuffle": True, **hdf5plugin.Zstd(clevel=ZSTD_LEVEL)}
        case "lz4":
            lz4 = hdf5plugin.Blosc(cname="lz4", clevel=BLOSC_LEVEL, shuffle=blosc.SHUFFLE)
            return {"fletcher32": checksum, **lz4}
    raise FormatError(f"compression {compression!r} is not one of 'zstd', 'lz4' and None")


def filters_of(dataset: h5py.Dataset) -> list[Filter]:
    """The filters of a dataset, in the order in which they encode."""
    properties = dataset.id.get_create_plist()
    found = (properties.get_filter(i) for i in range(properties.get_nfilters()))
    return [(int(number), tuple(map(int, options))) for number, _, options, _ in found]


def filters_as_options(filters: Sequence[Filter]) -> dict[str, Any]:
    """Keywords of h5py's `create_dataset` for filters that `chunk_codec` knows."""
    options: dict[str, Any] = {}
    for number, values in filters:
        if number == _SHUFFLE:
            options["shuffle"] = True
        elif number == _FLETCHER:
            options["fletcher32"] = True
        else:
            options |= {"compression": number, "compression_opts": values}
    return options


@dataclass(frozen=True, slots=True)
class ChunkCodec:
    """Encodes and decodes whole chunks of one array."""

    shape: tuple[int, ...]  # of a chunk
    dtype: np.dtype[Any]  # as it lies on the disk, byte order included
    filters: tuple[Filter, ...]

    @property
    def n_bytes(self) -> int:
        """Size of a decoded chunk."""
        return math.prod(self.shape) * self.dtype.itemsize

    def encode(self, block: Array) -> Buffer:
        """The bytes of a chunk."""
        data: Buffer = np.ascontiguousarray(block, self.dtype)
        for number, options in self.filters:
            data = _encoded(data, number, options, itemsize=self.dtype.itemsize)
        return data

    def decode(self, data: Buffer, *, skipped: int = 0) -> Array:
        """The chunk; never takes more memory than a chunk has.

        Args:
            data: What lies in the file.
            skipped: A bit for each filter that was left out of this chunk, as HDF5 keeps it.

        Raises:
            ValueError: The bytes are damaged.
        """
        used = [f for i, f in enumerate(self.filters) if not skipped >> i & 1]
        raw: Array = np.frombuffer(data, np.uint8)
        for number, _ in reversed(used):
            raw = _decoded(raw, number, n_bytes=self.n_bytes, itemsize=self.dtype.itemsize)
        if raw.nbytes != self.n_bytes:
            raise ValueError(f"it holds {raw.nbytes} bytes, a chunk has {self.n_bytes}")
        return raw.view(self.dtype).reshape(self.shape)


def chunk_codec(
    shape: tuple[int, ...], dtype: np.dtype[Any], filters: Sequence[Filter]
) -> ChunkCodec | None:
    """The codec of these filters; None if one of them is not known here, or not in this place."""
    numbers = [number for number, _ in filters]
    is_known = all(
        number in (_SHUFFLE, _FLETCHER, _ZSTD)
        or (number == _BLOSC and options[6:7] == (_BLOSC_LZ4,))
        for number, options in filters
    )
    n_packing = sum(number in (_ZSTD, _BLOSC) for number in numbers)
    # Checksums that are packed again would change how much a decoder may give; nobody does it.
    is_last = _FLETCHER not in numbers or numbers.index(_FLETCHER) == len(numbers) - 1
    if not is_known or n_packing > 1 or not is_last or _SHUFFLE in numbers[1:]:
        return None
    return ChunkCodec(shape, dtype, tuple(filters))


def codec_of(dataset: h5py.Dataset) -> ChunkCodec | None:
    """The codec of a dataset, None if HDF5 has to encode and decode by itself."""
    if dataset.chunks is None or dataset.dtype.kind not in "biufc":
        return None
    # A foreign type may be one that NumPy has no equal for, such as integers of 24 bits.
    if dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype, logical=True):
        return None
    return chunk_codec(dataset.chunks, dataset.dtype, filters_of(dataset))


def _encoded(data: Buffer, number: int, options: tuple[int, ...], *, itemsize: int) -> Buffer:
    if number == _SHUFFLE:
        # NumPy does that twice as fast as numcodecs.Shuffle. HDF5 leaves items of one byte as
        # they are, and so does the transpose.
        return np.ascontiguousarray(data.reshape(-1).view(np.uint8).reshape(-1, itemsize).T)
    if number == _FLETCHER:
        return _FLETCHER32.encode(data)
    if number == _ZSTD:
        return zstd.compress(data, ZSTD_LEVEL, True)
    return blosc.compress(data, b"lz4", options[4], options[5])


def _decoded(data: Array, number: int, *, n_bytes: int, itemsize: int) -> Array:
    if number == _SHUFFLE:
        if data.nbytes != n_bytes:
            raise ValueError(f"it holds {data.nbytes} bytes, a chunk has {n_bytes}")
        items = np.empty((n_bytes // itemsize, itemsize), np.uint8)
        for i, plane in enumerate(data.reshape(itemsize, -1)):  # 3 times as fast as a transpose
            items[:, i] = plane
        return items.reshape(-1)
    if number == _FLETCHER:
        if data.nbytes < 4:
            raise ValueError("it is cut short")
        try:
            return np.frombuffer(_FLETCHER32.decode(data), np.uint8)
        except RuntimeError:
            raise ValueError("the checksum does not match the bytes") from None
    unpacked = np.empty(n_bytes, np.uint8)
    unpack("zstd" if number == _ZSTD else "blosc", data, unpacked)
    return unpacked
