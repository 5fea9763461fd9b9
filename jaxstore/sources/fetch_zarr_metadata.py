"""What the metadata of a Zarr array say: its geometry, and the codec of its chunks.

Owned here: Zarr v2 and v3 brought to one record. zarr parses the documents; where they lie is
`fetch_zarr_documents`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from zarr.abc.codec import Codec
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline

from jaxstore.errors import FormatError
from jaxstore.sources.fetch_zarr_codec import ChunkCodec, PipelineCodec, PlainCodec
from jaxstore.sources.fetch_zarr_shard import ShardCodec
from jaxstore.stores.dtypes import parse_dtype, stored_dtype
from jaxstore.stores.frames import PACKINGS
from jaxstore.stores.limits import check_memory
from jaxstore.stores.zarr3_documents import DTYPE

_CHECKED = ("blosc", "zstd")  # packings whose header is read before zarr unpacks them


@dataclass(frozen=True, slots=True)
class Stored:
    """One array at rest."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]  # the shards of a sharded array
    dtype: np.dtype[Any]  # that callers see
    bits: np.dtype[Any]  # that are stored, native
    fill: np.generic[Any]
    codec: ChunkCodec
    metadata: Any  # of zarr, for the keys of chunks


def stored_array(name: str, array: Any, *, location: str, is_strict: bool) -> Stored:
    """The record of an array that zarr has opened.

    Args:
        name: For messages.
        array: A `zarr.Array` of numbers.
        location: For messages.
        is_strict: Whether inner chunks that are absent from a shard are an error.

    Raises:
        FormatError: It is no array whose rows can be read.
        TooLargeError: A chunk takes more memory than there is.
    """
    metadata = array.metadata
    try:
        chunks = tuple(max(n, 1) for n in array.shards or array.chunks)
    except NotImplementedError:
        raise FormatError(
            f"{name!r} in {location} has chunks of several sizes. Save it with equal ones."
        ) from None
    is_v2 = metadata.zarr_format == 2
    kind = metadata.dtype if is_v2 else metadata.data_type
    native = kind.to_native_dtype()
    bits = stored_dtype(native)
    marked = metadata.attributes.get(DTYPE)
    dtype = native.newbyteorder("=") if marked is None else parse_dtype(str(marked))
    if stored_dtype(dtype) != bits:
        raise FormatError(
            f"{name!r} in {location} is marked as {dtype}, but {bits} is stored. Correct its "
            f"attribute {DTYPE!r}."
        )
    check_memory(math.prod(chunks) * bits.itemsize, f"{name!r} in {location}: a chunk of {chunks}")
    filling = 0 if metadata.fill_value is None else metadata.fill_value
    fill: Any = np.asarray(filling).astype(bits)[()]
    common = _Common(kind, bits, fill, metadata, is_strict)
    codec = common.v2_codec(chunks) if is_v2 else common.codec(chunks, metadata.codecs)
    return Stored(tuple(metadata.shape), chunks, dtype, bits, fill, codec, metadata)


@dataclass(frozen=True, slots=True)
class _Common:
    """What the codecs of an array and those inside its shards share."""

    kind: Any  # dtype of zarr
    bits: np.dtype[Any]
    fill: np.generic[Any]
    metadata: Any
    is_strict: bool

    def codec(self, shape: tuple[int, ...], codecs: Sequence[Codec]) -> ChunkCodec:
        """Of Zarr v3."""
        if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
            shard = self._shard_codec(shape, codecs[0])
            if shard is not None:
                return shard
        documents = [codec.to_dict() for codec in codecs]
        plain = plain_codec(shape, self.bits, documents)
        last = _short_name(documents[-1])
        return plain or self._pipeline_codec(shape, codecs, last, order="C")

    def v2_codec(self, shape: tuple[int, ...]) -> ChunkCodec:
        """Of Zarr v2."""
        filters, compressor = self.metadata.filters, self.metadata.compressor
        packing = compressor.get_config()["id"] if compressor else None
        if not filters and (packing is None or packing in PACKINGS):
            axes = range(len(shape))
            order = tuple(reversed(axes) if self.metadata.order == "F" else axes)
            return PlainCodec(shape, self.kind.to_native_dtype(), order, packing, has_crc=False)
        codec = V2Codec(filters=filters, compressor=compressor)
        return self._pipeline_codec(shape, [codec], packing, order=self.metadata.order)

    def _shard_codec(self, shape: tuple[int, ...], codec: ShardingCodec) -> ShardCodec | None:
        """None if its index is in a codec that has no fixed size here."""
        sizes = tuple(codec.chunk_shape)
        grid = tuple(n // size for n, size in zip(shape, sizes, strict=True))
        documents = [index.to_dict() for index in codec.index_codecs]
        index = plain_codec((*grid, 2), np.dtype(np.uint64), documents)
        if index is None or index.packing is not None:
            return None
        settings: Any = codec.to_dict()["configuration"]
        return ShardCodec(
            shape,
            self.codec(sizes, codec.codecs),
            index,
            settings["index_location"] == "start",
            self.fill,
            self.is_strict,
        )

    def _pipeline_codec(
        self, shape: tuple[int, ...], codecs: Sequence[Codec], last: str | None, *, order: Any
    ) -> PipelineCodec:
        spec = ArraySpec(
            shape=shape,
            dtype=self.kind,
            fill_value=self.metadata.fill_value,
            config=ArrayConfig.from_dict({"order": order}),
            prototype=default_buffer_prototype(),
        )
        # Not the pipeline of zarr's settings: some only read and write, and cannot decode.
        pipeline = BatchedCodecPipeline.from_codecs(codecs)
        packing = last if last in _CHECKED else None
        return PipelineCodec(shape, self.bits, pipeline, spec, packing)


def plain_codec(
    shape: tuple[int, ...], dtype: np.dtype[Any], documents: Sequence[Any]
) -> PlainCodec | None:
    """The codec of these documents of Zarr v3; None if zarr has to decode.

    >>> documents = [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "zstd"}]
    >>> plain_codec((2, 3), np.dtype("f4"), documents).packing
    'zstd'
    """
    rest = [(_short_name(found), found.get("configuration", {})) for found in documents]
    order = tuple(range(len(shape)))
    while rest and rest[0][0] == "transpose":
        order = tuple(order[axis] for axis in rest.pop(0)[1]["order"])
    if not rest or rest[0][0] != "bytes":
        return None
    endian = rest.pop(0)[1].get("endian")
    has_crc = bool(rest) and rest[-1][0] == "crc32c"
    packings = [name for name, _ in rest[: -1 if has_crc else None]]
    if len(packings) > 1 or not PACKINGS.issuperset(packings):
        return None
    stored = dtype.newbyteorder(">" if endian == "big" else "<")
    return PlainCodec(shape, stored, order, packings[0] if packings else None, has_crc)


def _short_name(document: Any) -> str:
    """The name of a codec; those of numcodecs that have one of their own are the same."""
    name: str = document["name"]
    short = name.removeprefix("numcodecs.")
    return short if short in PACKINGS else name
