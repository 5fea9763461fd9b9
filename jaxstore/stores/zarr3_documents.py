"""The zarr.json documents of groups and arrays.

Owned here: making one with zarr, and reading one as an `ArraySpec` with the codec of its chunks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from jaxstore.errors import FormatError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.dtypes import fill_value, parse_dtype, stored_dtype
from jaxstore.stores.limits import MOST_CHUNK_BYTES
from jaxstore.stores.zarr3_checksum import CHECKSUM, with_checksum
from jaxstore.stores.zarr3_codec import Blosc, ChunkCodec, blosc_for

Json = dict[str, Any]

DTYPE = "jaxstore_dtype"  # attribute of arrays whose bits stand for another dtype
COMMIT = "jaxstore_commit"  # attribute of the root: any other key in the store makes readers warn
CREATED = "jaxstore_created"  # attribute of the root: tells two creators of one place apart
WRITER = "jaxstore_writer"  # attribute of the root: the process that writes, or wrote last
RESERVED = (DTYPE, COMMIT, CREATED, WRITER, CHECKSUM)
DOCUMENT = "zarr.json"  # its key in every group and array


def group_document(attrs: Json) -> Json:
    """The document of a new group."""
    return with_checksum({"attributes": attrs, "zarr_format": 3, "node_type": "group"})


def array_document(spec: ArraySpec, *, compression: str | None, checksum: bool) -> Json:
    """The document of a new array."""
    stored = stored_dtype(spec.dtype)
    blosc = blosc_for(compression, stored)
    fill = fill_value(spec.dtype)
    codec = ChunkCodec(spec.chunks, stored, fill, blosc, checksum)  # refuses chunks too large
    marked = {DTYPE: spec.dtype.name} if stored != spec.dtype.newbyteorder("=") else {}
    packed = [BloscCodec(**_settings(codec.blosc))] if codec.blosc else []
    made: dict[str, Any] = {}  # zarr takes a dict for a store in memory
    zarr.create_array(
        made,
        shape=spec.shape,
        chunks=spec.chunks,
        dtype=stored,
        fill_value=fill,
        filters=None,
        serializer=BytesCodec(endian="little"),
        compressors=[*packed, *([Crc32cCodec()] if checksum else [])],
        attributes={**spec.attrs, **marked},
        dimension_names=spec.dims,
        zarr_format=3,
    )
    return with_checksum(json.loads(made[DOCUMENT].to_bytes()))


def is_array(document: Json, *, or_labels: bool = False) -> bool:
    """Whether the document is that of an array of numbers."""
    return document["node_type"] == "array" and (or_labels or not is_labels(document))


def is_labels(document: Json) -> bool:
    """Whether the document is that of a coordinate of strings."""
    return document.get("data_type") == "string" and len(document["shape"]) == 1


def array_spec(name: str, document: Json) -> ArraySpec:
    """How the array of a document lies."""
    shape = tuple(document["shape"])
    dims = document.get("dimension_names") or [None] * len(shape)
    return ArraySpec(
        name=name,
        shape=shape,
        chunks=chunk_shape(name, document),
        dtype=dtype_of(document),
        dims=tuple(dim or f"dim_{axis}" for axis, dim in enumerate(dims)),
        attrs=plain_attrs(document),
    )


def dtype_of(document: Json) -> np.dtype[Any]:
    """The dtype that callers write and read."""
    return parse_dtype(str(document.get("attributes", {}).get(DTYPE) or document["data_type"]))


def chunk_shape(name: str, document: Json) -> tuple[int, ...]:
    """Shape of what is one object: a chunk or a shard.

    Raises:
        FormatError: The chunks are of several sizes, or more than memory should be taken for.
    """
    grid = document["chunk_grid"]
    if grid["name"] != "regular":
        raise FormatError(f"{name!r} has a chunk grid {grid['name']!r}. Read it through zarr.")
    # At least 1: zarr allows empty chunks of empty axes.
    chunks = tuple(max(n, 1) for n in grid["configuration"]["chunk_shape"])
    decoded = [chunks, *map(tuple, _inner_chunks(document["codecs"]))][-1]
    n_bytes = math.prod(decoded) * stored_dtype(dtype_of(document)).itemsize
    if n_bytes > MOST_CHUNK_BYTES:
        raise FormatError(
            f"{name!r} declares chunks of {decoded}, which are {n_bytes:,} bytes; more than "
            f"{MOST_CHUNK_BYTES:,} are not read. Save it with smaller chunks."
        )
    return chunks


def chunk_codec(name: str, document: Json) -> ChunkCodec:
    """The codec of an array that jaxstore can write.

    Raises:
        FormatError: The array was made with other codecs than jaxstore knows.
    """
    chunks, dtype = chunk_shape(name, document), dtype_of(document)
    named = [codec for codec in document["codecs"] if isinstance(codec, dict)]
    listed = {codec["name"]: codec.get("configuration", {}) for codec in named}
    settings = listed.get("blosc", {})
    blosc = Blosc(**settings) if set(settings) == set(Blosc.__slots__) else None
    fill = fill_value(dtype)
    codec = ChunkCodec(chunks, stored_dtype(dtype), fill, blosc, "crc32c" in listed)
    keys = document["chunk_key_encoding"]
    is_ours = (
        _names(codec.document()) == _names(document["codecs"])
        and str(document["data_type"]) == codec.dtype.name
        and listed["bytes"].get("endian", "little") == "little"
        and keys["name"] == "default"
        and keys.get("configuration", {}).get("separator", "/") == "/"
        and document["fill_value"] == _fill_json(fill)
        and not document.get("storage_transformers")
    )
    if not is_ours:
        raise FormatError(
            f"{name!r} was made by another program, with codecs, chunk keys or a fill value that "
            "jaxstore does not write. Write it through zarr, or save to a new group."
        )
    return codec


def _inner_chunks(codecs: list[Json]) -> Iterator[list[int]]:
    """What shards are made of, the outermost first."""
    for codec in codecs:
        if isinstance(codec, dict) and codec["name"] == "sharding_indexed":
            settings = codec.get("configuration", {})
            yield settings.get("chunk_shape", [])
            yield from _inner_chunks(settings.get("codecs", []))


def plain_attrs(document: Json) -> Json:
    """A copy of the attributes without those that jaxstore keeps for itself."""
    attrs = document.get("attributes", {})
    copied: Json = json.loads(json.dumps({k: v for k, v in attrs.items() if k not in RESERVED}))
    return copied


def check_attrs(attrs: Mapping[str, Any]) -> None:
    """Refuse attributes that jaxstore keeps for itself."""
    if taken := sorted(set(attrs) & set(RESERVED)):
        raise ValueError(f"attributes {taken} are jaxstore's own. Choose other names.")


def with_attrs(document: Json, attrs: Mapping[str, Any]) -> Json:
    """The document with these attributes added or replaced."""
    return {**document, "attributes": {**document.get("attributes", {}), **attrs}}


def _names(codecs: list[Json]) -> list[str]:
    return [codec if isinstance(codec, str) else codec["name"] for codec in codecs]


def _settings(blosc: Blosc) -> dict[str, Any]:
    return {key: getattr(blosc, key) for key in Blosc.__slots__}


def _fill_json(fill: np.generic[Any]) -> Any:
    """The fill value as zarr.json writes it."""
    if fill.dtype.kind == "c":
        return ["NaN", "NaN"]
    return "NaN" if fill.dtype.kind == "f" else fill.item()
