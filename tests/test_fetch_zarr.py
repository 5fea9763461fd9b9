"""Every format that Zarr has, read by chunks, against zarr's own reading of the whole."""

from __future__ import annotations

import math
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import LZ4, Blosc, Delta, FixedScaleOffset, GZip, Shuffle, Zlib, Zstd
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

from jaxstore.errors import FormatError, MissingError
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.fetch_scratch import Scratch
from jaxstore.sources.fetch_zarr import open_zarr_arrays
from jaxstore.sources.fetch_zarr_codec import PipelineCodec
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.zarr3 import ZarrStore

Array = np.ndarray[Any, Any]


def values_of(shape: tuple[int, ...], dtype: Any) -> Array:
    """No value twice in a row, none of them the fill value of zarr."""
    values = np.arange(1, math.prod(shape) + 1).reshape(shape) % 120 + 1
    return (values % 2 if np.dtype(dtype).kind == "b" else values).astype(dtype)


def rows_of(source: RowSource) -> Array:
    """All rows, read as a loader does: chunk by chunk into memory that held something else."""
    g = source.geometry
    rows = np.empty((g.n_samples, *g.inner_shape), g.dtype)
    rows.reshape(-1).view(np.uint8)[:] = 0xA5
    for chunk in range(g.n_chunks):
        place = g.samples_in_chunk(chunk)
        for index in source.stored_chunks(chunk):
            source.read(index, rows[place.start : place.stop])
    return rows


def only(where: Any, **settings: Any) -> RowSource:
    (source,) = open_zarr_arrays(where, None, **{"is_strict": True, **settings}).values()
    return source


def has_rows(where: Any, values: Array, *, axis: int) -> bool:
    source = only(where, axis=axis)
    wanted = np.moveaxis(values, axis, 0)
    rows = rows_of(source)
    assert rows.dtype == wanted.dtype.newbyteorder("=")
    assert rows.dtype.isnative
    return rows.tobytes() == wanted.astype(rows.dtype).tobytes()


def numcodecs3(name: str, **configuration: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zarr.registry.get_codec_class(f"numcodecs.{name}")(**configuration)


SHARDED = ShardingCodec(chunk_shape=(2, 2, 3), codecs=[BytesCodec(), ZstdCodec()])
V3 = {
    "raw": dict(compressors=None),
    "big": dict(serializer=BytesCodec(endian="big"), compressors=None),
    "raw, crc32c": dict(compressors=[Crc32cCodec()]),
    "zstd": dict(compressors=[ZstdCodec()]),
    "zstd, own checksum": dict(compressors=[ZstdCodec(checksum=True)]),
    "zstd, crc32c": dict(compressors=[ZstdCodec(), Crc32cCodec()]),
    "blosc": dict(compressors=[BloscCodec(cname="lz4", shuffle="bitshuffle")]),
    "gzip": dict(compressors=[GzipCodec()]),
    "two": dict(compressors=[GzipCodec(), ZstdCodec()]),
    "lz4": dict(compressors=[numcodecs3("lz4")]),
    "bz2": dict(compressors=[numcodecs3("bz2")]),
    "delta": dict(filters=[numcodecs3("delta", dtype="<f4")], compressors=[BloscCodec()]),
    "F": dict(filters=[TransposeCodec(order=(2, 1, 0))], compressors=[ZstdCodec()]),
    "turned": dict(filters=[TransposeCodec(order=(1, 2, 0))], compressors=None),
    "turned twice": dict(
        filters=[TransposeCodec(order=(1, 2, 0)), TransposeCodec(order=(0, 2, 1))],
        serializer=BytesCodec(endian="big"),
        compressors=[GzipCodec()],
    ),
    "sharded": dict(serializer=SHARDED, compressors=None),
    "sharded, index first, raw": dict(
        serializer=ShardingCodec(
            chunk_shape=(4, 2, 3), codecs=[BytesCodec(endian="big")], index_location="start"
        ),
        compressors=None,
    ),
    "sharded, plain index": dict(
        serializer=ShardingCodec(
            chunk_shape=(2, 4, 3), codecs=[BytesCodec(), Crc32cCodec()], index_codecs=[BytesCodec()]
        ),
        compressors=None,
    ),
    "shards of shards": dict(
        serializer=ShardingCodec(
            chunk_shape=(4, 2, 3), codecs=[ShardingCodec(chunk_shape=(2, 2, 3))]
        ),
        compressors=None,
    ),
    "shards of others": dict(
        serializer=ShardingCodec(
            chunk_shape=(2, 2, 3), codecs=[BytesCodec(), GzipCodec(), ZstdCodec()]
        ),
        compressors=None,
    ),
    "packed shards": dict(serializer=SHARDED, compressors=[ZstdCodec()]),
}
V2 = {
    "raw": dict(compressors=None),
    "F": dict(compressors=None, order="F"),
    "F, zstd": dict(compressors=[Zstd()], order="F"),
    "zstd": dict(compressors=[Zstd()]),
    "blosc": dict(compressors=[Blosc(cname="zstd", shuffle=Blosc.SHUFFLE)]),
    "lz4": dict(compressors=[LZ4()]),
    "gzip": dict(compressors=[GZip()]),
    "zlib": dict(compressors=[Zlib()]),
    "filters": dict(filters=[Delta("<f4"), Shuffle(4)], compressors=[Blosc()]),
    "scaled, F": dict(
        filters=[FixedScaleOffset(offset=0, scale=1, dtype="<f4", astype="<i2")],
        compressors=[Zstd()],
        order="F",
    ),
    "slashes": dict(compressors=None, chunk_key_encoding={"name": "v2", "separator": "/"}),
}
FORMATS = {f"v3 {k}": (3, v) for k, v in V3.items()} | {f"v2 {k}": (2, v) for k, v in V2.items()}
# Those that zarr's own pipeline decodes; the others are decoded by hand.
BY_ZARR = {"v3 two", "v3 bz2", "v3 delta", "v3 packed shards", "v2 filters", "v2 scaled, F"}
ignore_numcodecs = pytest.mark.filterwarnings("ignore:Numcodecs codecs", "ignore:Combining a")


@ignore_numcodecs
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_equals_the_array(name: str, axis: int, tmp_path: Any) -> None:
    version, codecs = FORMATS[name]
    where = tmp_path / "a.zarr"
    # All axes end with a chunk that zarr stores whole and of which less is there.
    values = values_of((10, 7, 5), "f4")
    array = zarr.create_array(
        where, shape=values.shape, chunks=(4, 4, 3), dtype="f4", zarr_format=version, **codecs
    )
    array[...] = values
    if name != "v3 shards of shards":  # which zarr 3.1 writes but cannot read
        assert np.array_equal(array[...], values)
    assert has_rows(where, values, axis=axis)
    assert only(where).geometry.name == "a.zarr"
    assert isinstance(only(where).stored.codec, PipelineCodec) == (name in BY_ZARR)


@ignore_numcodecs
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    "dtype", ["bool", "i1", "u2", "i8", "f2", "f8", "c8", "c16", ">f4", ">i2", ">c16"]
)
def test_every_dtype_of_numbers_equals_the_array(version: int, dtype: str) -> None:
    values = values_of((10, 3), dtype)
    kept: dict[str, Any] = {}
    where = zarr.storage.MemoryStore(kept)
    big = dtype[0] == ">" and version == 3  # where the codec has the byte order
    array = zarr.create_array(
        where,
        shape=values.shape,
        chunks=(4, 3),
        dtype=dtype.lstrip(">") if big else dtype,
        zarr_format=version,
        **({"serializer": BytesCodec(endian="big")} if big else {}),
    )
    array[...] = values
    assert np.array_equal(array[...], values)
    assert has_rows(where, values, axis=0)


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4", "float32", "bool"])
def test_arrays_of_jaxstore_come_back_in_their_own_dtype(
    dtype: str, compression: str | None, tmp_path: Any
) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = (np.arange(30).reshape(10, 3) % 7).astype(kind)
    store = ZarrStore.new(tmp_path / "run", compression=compression)
    store.create(ArraySpec("samples/x", (10, 3), (4, 3), kind, ("draw", "dim"), {}))
    store.write("samples/x", (0, 0), values)
    store.close()
    source = only(tmp_path / "run")
    assert (source.geometry.name, source.geometry.dtype) == ("samples/x", kind)
    assert rows_of(source).tobytes() == values.tobytes()


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    n_axes = draw(st.integers(1, 3))
    sizes = st.tuples(*[st.integers(0, 9)] * n_axes)
    inner = draw(st.tuples(*[st.integers(1, 4)] * n_axes))
    counts = draw(st.tuples(*[st.integers(1, 3)] * n_axes))
    outer = tuple(n * size for n, size in zip(counts, inner, strict=True))
    version = draw(st.sampled_from([2, 3]))
    is_sharded = version == 3 and draw(st.booleans())
    compressor: Any = {2: Zstd(), 3: ZstdCodec()}[version]
    return dict(
        shape=draw(sizes),
        chunks=inner if is_sharded else outer,
        **({"shards": outer} if is_sharded else {}),
        **({"order": draw(st.sampled_from("CF"))} if version == 2 else {}),
        compressors=draw(st.sampled_from([None, [compressor]])),
        zarr_format=version,
        dtype=draw(st.sampled_from(["u1", "f4", "c16"])),
        fill_value=3,
    )


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), data=st.data())
def test_any_geometry_with_gaps_equals_the_array(layout: dict[str, Any], data: Any) -> None:
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(store, **layout)
    n_axes = len(layout["shape"])
    # Only a region is written, so that chunks and inner chunks around it are fill values.
    region = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))))
        for n in layout["shape"]
    )
    array[region] = values_of(np.empty(layout["shape"], "u1")[region].shape, layout["dtype"])
    axis = data.draw(st.integers(-n_axes, n_axes - 1))
    source = only(store, axis=axis, is_strict=False)
    assert np.array_equal(rows_of(source), np.moveaxis(array[...], axis, 0))


def test_a_chunk_reports_the_bytes_that_were_fetched(tmp_path: Any) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(8, 3), chunks=(4, 3), dtype="f4")
    array[...] = values_of((8, 3), "f4")
    source = only(tmp_path / "a")
    size = (tmp_path / "a/c/1/0").stat().st_size
    assert source.read((1, 0), np.empty((4, 3), "f4")) == size


def test_raw_chunks_are_read_where_they_belong_and_others_in_memory_that_is_used_again(
    tmp_path: Any,
) -> None:
    for name, compressors in (("raw", [Crc32cCodec()]), ("packed", [ZstdCodec()])):
        array = zarr.create_array(
            tmp_path / name, shape=(8, 4096), chunks=(4, 4096), dtype="f4", compressors=compressors
        )
        array[...] = np.random.default_rng(0).normal(size=(8, 4096))
    rows = np.empty((4, 4096), "f4")
    raw, packed = only(tmp_path / "raw"), only(tmp_path / "packed")
    raw.read((0, 0), rows)
    assert rooms_of(raw.scratch) == (0, 0)
    for index in ((0, 0), (1, 0)):
        packed.read(index, rows)
    encoded, decoded = rooms_of(packed.scratch)
    assert decoded == 0 < encoded < 1.2 * rows.nbytes
    first = packed.scratch.encoded(1).ctypes.data
    packed.read((0, 0), rows)
    assert packed.scratch.encoded(1).ctypes.data == first
    assert np.array_equal(rows, zarr.open_array(tmp_path / "packed")[:4])


def rooms_of(scratch: Scratch) -> tuple[int, int]:
    """Bytes of the buffers of this thread."""
    encoded, decoded = scratch.encoded(0).base, scratch.decoded(0).base
    return encoded.nbytes, decoded.nbytes


class TestNames:
    @pytest.fixture(params=[(2, False), (2, True), (3, False), (3, True)], ids=str)
    def where(self, request: Any, tmp_path: Any) -> Any:
        version, is_consolidated = request.param
        root = zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=version)
        for name in ("x", "deep/er/y"):
            array = root.create_array(name, shape=(6, 2), chunks=(4, 2), dtype="f4")
            array[...] = values_of((6, 2), "f4")
        root.create_array("one", shape=(), dtype="f4")
        root.create_array("time", shape=(6,), dtype="M8[s]")
        root.create_array("text", shape=(6,), dtype="<U4")
        if is_consolidated:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                zarr.consolidate_metadata(tmp_path / "g.zarr", zarr_format=version)
        return tmp_path / "g.zarr"

    pytestmark = pytest.mark.filterwarnings("ignore:The data type")

    def test_all_arrays_of_numbers_are_found(self, where: Any) -> None:
        found = open_zarr_arrays(where, None, is_strict=True)
        assert sorted(found) == ["deep/er/y", "x"]
        for source in found.values():
            assert np.array_equal(rows_of(source), values_of((6, 2), "f4"))
        deep = open_zarr_arrays(zarr.open_group(where, mode="r")["deep"], None, is_strict=True)
        assert list(deep) == ["er/y"]

    def test_names_are_taken_in_their_order_with_an_axis_each(self, where: Any) -> None:
        found = open_zarr_arrays(where, ["x", "deep/er/y"], axis={"x": -1}, is_strict=True)
        assert {name: source.geometry.axis for name, source in found.items()} == {
            "x": 1,
            "deep/er/y": 0,
        }
        with pytest.raises(MissingError, match="axis is given for z, but the arrays are x"):
            open_zarr_arrays(where, ["x"], axis={"z": 0}, is_strict=True)

    @pytest.mark.parametrize("name", ["one", "time", "text"])
    def test_what_has_no_rows_of_numbers_is_refused_by_name(self, where: Any, name: str) -> None:
        with pytest.raises(FormatError, match=f"'{name}' in .*no array with rows of numbers"):
            open_zarr_arrays(where, ["x", name], is_strict=True)

    def test_names_of_nothing_and_of_groups_are_refused(self, where: Any) -> None:
        with pytest.raises(MissingError, match=r"no array 'z', but deep.*Correct the name"):
            open_zarr_arrays(where, ["z"], is_strict=True)
        with pytest.raises(FormatError, match="'deep' in .* is a group"):
            open_zarr_arrays(where, ["deep"], is_strict=True)
        with pytest.raises(FormatError, match="no name in a store"):
            open_zarr_arrays(where, ["../x"], is_strict=True)


def test_nothing_at_a_place_is_missing(tmp_path: Any) -> None:
    with pytest.raises(MissingError, match="holds no Zarr group or array"):
        open_zarr_arrays(tmp_path / "no", None, is_strict=True)
    with pytest.raises(MissingError, match="no Zarr group with an array 'x'"):
        open_zarr_arrays(tmp_path / "no", ["x"], is_strict=True)


def test_an_array_alone_is_opened_by_the_name_that_it_is_given(tmp_path: Any) -> None:
    zarr.create_array(tmp_path / "a", shape=(6,), chunks=(4,), dtype="f4")[...] = 1
    (source,) = open_zarr_arrays(tmp_path / "a", ["a"], axis={"a": 0}, is_strict=True).values()
    assert source.geometry.name == "a"
    assert np.array_equal(rows_of(source), np.ones(6, "f4"))
    with pytest.raises(MissingError, match="has no array 'b', but a. Correct"):
        open_zarr_arrays(tmp_path / "a", ["b"], is_strict=True)
    memory = zarr.storage.MemoryStore()
    zarr.create_array(memory, shape=(6,), dtype="f4")
    assert list(open_zarr_arrays(memory, ["array"], is_strict=True)) == ["array"]


def test_copies_serve_where_the_documents_are_not(tmp_path: Any) -> None:
    root = zarr.open_group(tmp_path, mode="w")
    root.create_array("x", shape=(6,), chunks=(4,), dtype="f4")[...] = 1
    with pytest.warns(UserWarning, match="onsolidated"):
        zarr.consolidate_metadata(tmp_path)
    (tmp_path / "x/zarr.json").unlink()
    (source,) = open_zarr_arrays(tmp_path, ["x"], is_strict=True).values()
    assert np.array_equal(rows_of(source), np.ones(6, "f4"))


def test_an_array_of_no_rows_has_no_chunks(tmp_path: Any) -> None:
    zarr.create_array(tmp_path / "a", shape=(0, 3), chunks=(4, 3), dtype="f4")
    source = only(tmp_path / "a")
    assert (source.geometry.n_chunks, rows_of(source).shape) == (0, (0, 3))
