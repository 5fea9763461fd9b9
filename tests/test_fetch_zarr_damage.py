"""Chunks that are damaged or absent are told by array and chunk; none is read as something else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import LZ4, Blosc, Delta, GZip, Zlib, Zstd
from test_fetch_zarr import only, rows_of, values_of
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

from jaxstore.errors import FormatError, TooLargeError

SHAPE, CHUNKS = (20, 3), (10, 3)
RAW = dict(compressors=None)
# By whether any flipped bit is seen: by a checksum, or by what is left of the frame.
FORMATS: dict[str, tuple[bool, dict[str, Any]]] = {
    "raw": (False, RAW),
    "raw, crc32c": (True, dict(compressors=[Crc32cCodec()])),
    "turned, crc32c": (
        True,
        dict(filters=[TransposeCodec(order=(1, 0))], compressors=[Crc32cCodec()]),
    ),
    "zstd": (False, dict(compressors=[ZstdCodec()])),
    "zstd, crc32c": (True, dict(compressors=[ZstdCodec(), Crc32cCodec()])),
    "blosc": (False, dict(compressors=[BloscCodec()])),
    "blosc, crc32c": (True, dict(compressors=[BloscCodec(), Crc32cCodec()])),
    "gzip": (False, dict(compressors=[GzipCodec()])),
    "two": (False, dict(compressors=[ZstdCodec(), GzipCodec()])),
    "two, blosc last": (False, dict(compressors=[ZstdCodec(), BloscCodec()])),
    "sharded": (False, dict(shards=CHUNKS, chunks=(5, 3))),
    "sharded, crc32c": (True, dict(shards=CHUNKS, chunks=(5, 3), compressors=[Crc32cCodec()])),
    "packed shards": (
        False,
        dict(serializer=ShardingCodec(chunk_shape=(5, 3)), compressors=[BloscCodec()]),
    ),
    "v2 zstd": (False, dict(zarr_format=2, compressors=[Zstd()])),
    "v2 lz4": (False, dict(zarr_format=2, compressors=[LZ4()])),
    "v2 gzip": (False, dict(zarr_format=2, compressors=[GZip()])),
    "v2 zlib": (False, dict(zarr_format=2, compressors=[Zlib()])),
    "v2 filters": (False, dict(zarr_format=2, filters=[Delta("<f4")], compressors=[Blosc()])),
}
pytestmark = pytest.mark.filterwarnings("ignore:Combining a")


def make(where: Path, **codecs: Any) -> Path:
    """An array of two chunks, and the file of the second."""
    settings: dict[str, Any] = {"chunks": CHUNKS, "fill_value": 7, **codecs}
    array = zarr.create_array(where, shape=SHAPE, dtype="f4", **settings)
    array[...] = values_of(SHAPE, "f4")
    return where / ("1.0" if settings.get("zarr_format") == 2 else "c/1/0")


# Longer, and still what they were: gzip of zarr allows zeros after it, and a shard gaps in it.
STILL_WHOLE = {("two", 1), ("sharded", 2)}


@pytest.mark.parametrize("name", FORMATS)
def test_a_chunk_of_another_length_is_named(name: str, tmp_path: Path) -> None:
    file = make(tmp_path / "a", **FORMATS[name][1])
    data, source = file.read_bytes(), only(tmp_path / "a")
    rows = np.empty((10, 3), "f4")
    cut = [data[:n] for n in range(0, len(data), len(data) // 8)]
    for n, damaged in enumerate([data, data + b"\0", data + data, bytes(len(data) + 80), *cut]):
        file.write_bytes(damaged)
        if n == 0 or (name, n) in STILL_WHOLE:
            source.read((1, 0), rows)
            assert np.array_equal(rows, values_of(SHAPE, "f4")[10:])
            continue
        with pytest.raises(FormatError, match=r"^'a' in .*: chunk \(1, 0\) is damaged: .*Restore"):
            source.read((1, 0), rows)
        source.read((0, 0), rows)


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_bit_never_gives_a_short_read_and_a_checksum_sees_each(
    name: str, tmp_path: Path
) -> None:
    is_seen, codecs = FORMATS[name]
    file = make(tmp_path / "a", **codecs)
    data, source = file.read_bytes(), only(tmp_path / "a")
    rows = np.empty((10, 3), "f4")
    for at in range(0, len(data) * 8, 71):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        file.write_bytes(flipped)
        rows.view(np.uint8)[...] = 0xA5
        try:
            source.read((1, 0), rows)
        except FormatError:
            continue
        assert not is_seen
        assert not (rows.view(np.uint32) == 0xA5A5A5A5).any()


@pytest.mark.parametrize("name", FORMATS)
def test_an_absent_chunk_is_an_error_or_fill_values(name: str, tmp_path: Path) -> None:
    make(tmp_path / "a", **FORMATS[name][1]).unlink()
    with pytest.raises(FormatError, match=r"^'a' in .*: chunk \(1, 0\) is absent\. Restore"):
        rows_of(only(tmp_path / "a"))
    rows = rows_of(only(tmp_path / "a", is_strict=False))
    assert np.array_equal(rows[:10], values_of(SHAPE, "f4")[:10])
    assert (rows[10:] == 7).all()


@pytest.mark.parametrize("where", ["end", "start"])
def test_an_absent_inner_chunk_is_an_error_or_fill_values(where: Any, tmp_path: Path) -> None:
    codec = ShardingCodec(chunk_shape=(5, 3), codecs=[BytesCodec()], index_location=where)
    array = zarr.create_array(
        tmp_path / "a", shape=SHAPE, chunks=CHUNKS, dtype="f4", serializer=codec, compressors=None
    )
    array[:15] = values_of((15, 3), "f4")
    rows = np.empty((10, 3), "f4")
    with pytest.raises(FormatError, match=r"chunk \(1, 0\).* inner chunk \(1, 0\) is absent"):
        only(tmp_path / "a").read((1, 0), rows)
    only(tmp_path / "a", is_strict=False).read((1, 0), rows)
    assert np.array_equal(rows, array[10:])


def test_an_index_that_leads_beyond_the_shard_is_named(tmp_path: Path) -> None:
    codec = ShardingCodec(
        chunk_shape=(5, 3), codecs=[BytesCodec()], index_codecs=[BytesCodec(endian="little")]
    )
    file = make(tmp_path / "a", serializer=codec, compressors=None)
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    beyond, other = "lies beyond the end", "bytes, a chunk has 60"
    entries = {
        **dict.fromkeys([(2**64 - 2, 60), (0, 2**40), (2**64 - 1, 60), (100, 60)], beyond),
        **dict.fromkeys([(0, 59), (0, 1), (0, 0)], other),
    }
    for entry, what in entries.items():
        data[-16:] = np.array(entry, np.uint64).view(np.uint8)
        file.write_bytes(data.tobytes())
        with pytest.raises(FormatError, match=rf"chunk \(1, 0\).*inner chunk \(1, 0\).*{what}"):
            only(tmp_path / "a").read((1, 0), np.empty((10, 3), "f4"))


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(120))
    file = make(tmp_path / "a", **RAW)
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(FormatError, match=r"chunk \(1, 0\).*is a link to another place"):
        rows_of(only(tmp_path / "a"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(FormatError, match=r"chunk \(1, 0\).*is no file"):
        rows_of(only(tmp_path / "a"))


@pytest.mark.parametrize("packing", ["zstd", "blosc", "lz4", "two"])
def test_a_few_bytes_that_declare_gigabytes_take_no_memory(packing: str, tmp_path: Path) -> None:
    codecs: dict[str, Any] = {
        "zstd": dict(compressors=[ZstdCodec()]),
        "blosc": dict(compressors=[BloscCodec()]),
        "lz4": dict(compressors=[LZ4()], zarr_format=2),
        "two": dict(compressors=[GzipCodec(), ZstdCodec()]),
    }[packing]
    file = make(tmp_path / "a", **codecs)
    declared = {
        "lz4": (2**31 - 1).to_bytes(4, "little") + bytes(20),
        "blosc": bytes([2, 1, 0, 4]) + b"\xff\xff\xff\x7f" + bytes(4) + bytes([32, 0, 0, 0]),
    }
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + (2**40).to_bytes(8, "little")
    file.write_bytes(declared.get(packing, frame).ljust(32, b"\0"))
    with pytest.raises(FormatError, match=r"chunk \(1, 0\) is damaged: it says that it holds"):
        rows_of(only(tmp_path / "a"))


def test_chunks_that_no_machine_can_hold_are_refused_when_opened(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", shape=(10,), chunks=(2**50,), dtype="f4")
    with pytest.raises(TooLargeError, match="'a' in .* a chunk of"):
        only(tmp_path / "a")


@pytest.mark.parametrize("name", ["zarr.json", ".zarray"])
@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"zarr_format": 3}', b"[" * 100_000])
def test_documents_that_are_none_are_named(name: str, text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(text)
    with pytest.raises(FormatError, match="a"):
        only(tmp_path / "a")


def test_a_mark_of_another_dtype_is_refused(tmp_path: Path) -> None:
    zarr.create_array(
        tmp_path / "a", shape=(4,), dtype="f4", attributes={"jaxstore_dtype": "bfloat16"}
    )
    with pytest.raises(FormatError, match="'a' in .* is marked as bfloat16, but float32"):
        only(tmp_path / "a")
