"""Compressed bytes are unpacked where they belong, or refused before memory is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numcodecs import LZ4, Blosc, GZip, Zlib, Zstd

from jaxstore.stores.frames import PACKINGS, blosc_bytes, unpack, zstd_bytes

Array = np.ndarray[Any, Any]
VALUES = np.arange(3000, dtype="u4").view(np.uint8)
ENCODERS = {"zstd": Zstd(), "blosc": Blosc(), "lz4": LZ4(), "gzip": GZip(), "zlib": Zlib()}


def packed(packing: str, values: Array = VALUES) -> Array:
    return np.frombuffer(ENCODERS[packing].encode(values), np.uint8)


def streamed(frame: Array) -> Array:
    """A frame of zstd as a program writes it that streams: with a window, and no size."""
    assert frame[4] >> 6 == 1  # two bytes of size and a window of its own
    is_single = frame[4] >> 5 & 1
    return np.concatenate([frame[:4], np.uint8([frame[4] & 4, 80]), frame[8 - is_single :]])


def test_every_packing_is_tested() -> None:
    assert set(ENCODERS) == PACKINGS


@pytest.mark.parametrize("packing", ENCODERS)
@pytest.mark.parametrize("n_bytes", [VALUES.nbytes, VALUES.nbytes - 1, VALUES.nbytes + 1, 0])
def test_bytes_fill_their_place_or_are_refused(packing: str, n_bytes: int) -> None:
    bits = np.full(n_bytes, 0xA5, np.uint8)
    if n_bytes == VALUES.nbytes:
        unpack(packing, packed(packing), bits)
        assert np.array_equal(bits, VALUES)
    else:
        with pytest.raises(ValueError, match="hold"):
            unpack(packing, packed(packing), bits)


@pytest.mark.parametrize("packing", ENCODERS)
def test_what_is_cut_short_or_goes_on_is_refused(packing: str) -> None:
    data = packed(packing)
    room = np.empty(data.nbytes + 40, np.uint8)
    room[: data.nbytes] = data  # so that what reads beyond its end finds the rest
    for n_bytes in (*range(0, 24), data.nbytes - 1, data.nbytes + 1, data.nbytes + 40):
        with pytest.raises(ValueError, match="."):
            unpack(packing, room[:n_bytes], np.empty(VALUES.nbytes, np.uint8))


@pytest.mark.parametrize("n_bytes", [VALUES.nbytes, VALUES.nbytes - 1, VALUES.nbytes + 1])
def test_a_frame_that_declares_nothing_has_to_fit(n_bytes: int) -> None:
    data, bits = streamed(packed("zstd")), np.empty(n_bytes, np.uint8)
    assert zstd_bytes(data) is None
    if n_bytes == VALUES.nbytes:
        unpack("zstd", data, bits)
        assert np.array_equal(bits, VALUES)
    else:
        with pytest.raises(ValueError, match="cannot be decoded"):
            unpack("zstd", data, bits)


def test_gzip_of_several_members_is_one() -> None:
    data = np.concatenate([packed("gzip", VALUES[:5000]), packed("gzip", VALUES[5000:])])
    bits = np.empty_like(VALUES)
    unpack("gzip", data, bits)
    assert np.array_equal(bits, VALUES)


def test_zeros_that_hold_a_thousand_times_more_stop_at_the_end_of_the_place() -> None:
    data = packed("zlib", np.zeros(1 << 24, np.uint8))
    with pytest.raises(ValueError, match="holds more than the 10 bytes"):
        unpack("zlib", data, np.empty(10, np.uint8))


def test_blosc_without_a_whole_header_declares_nothing() -> None:
    with pytest.raises(ValueError, match="fewer than a header"):
        blosc_bytes(np.empty(0, np.uint8))
