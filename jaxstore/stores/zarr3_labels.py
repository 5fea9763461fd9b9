"""Coordinates of strings in a Zarr v3 store.

Owned here: the bytes of their one chunk, which zarr calls `vlen-utf8` and `crc32c`: the number of
strings, then each with its length before it. Coordinates of other programs are read through zarr.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import google_crc32c
import zarr
from zarr.codecs import Crc32cCodec

from jaxstore.errors import FormatError
from jaxstore.stores.blobs import Blobs
from jaxstore.stores.limits import MOST_DOCUMENT_BYTES
from jaxstore.stores.zarr3_checksum import with_checksum
from jaxstore.stores.zarr3_documents import DOCUMENT
from jaxstore.stores.zarr3_foreign import ForeignChunks

Json = dict[str, Any]

_CODECS = ["vlen-utf8", "crc32c"]


def label_document(name: str, n_labels: int) -> Json:
    """The document of a coordinate of strings, all of them in one chunk."""
    made: dict[str, Any] = {}
    zarr.create_array(
        made,
        shape=(n_labels,),
        chunks=(max(n_labels, 1),),
        dtype="string",
        filters=None,
        compressors=[Crc32cCodec()],
        dimension_names=(name.rpartition("/")[2],),
        zarr_format=3,
    )
    return with_checksum(json.loads(made[DOCUMENT].to_bytes()))


def write_labels(blobs: Blobs, name: str, labels: Sequence[str]) -> None:
    """Put the strings."""
    if labels:
        texts = [label.encode() for label in labels]
        body = b"".join([_u32(len(texts)), *(_u32(len(text)) + text for text in texts)])
        blobs.put(f"{name}/c/0", [body, _u32(google_crc32c.value(body))])


def read_labels(blobs: Blobs, name: str, document: Json) -> list[str]:
    """The strings of a coordinate.

    Raises:
        FormatError: They are damaged, or absent.
    """
    shape = document["shape"]
    codecs = [codec if isinstance(codec, str) else codec["name"] for codec in document["codecs"]]
    if codecs != _CODECS or document["chunk_grid"]["configuration"]["chunk_shape"] != shape:
        return [str(label) for label in ForeignChunks(blobs, name, document).read([0], shape)]
    if shape == [0]:
        return []
    data = blobs.get(f"{name}/c/0", MOST_DOCUMENT_BYTES)
    try:
        if data is None:
            raise ValueError("its strings are absent")
        return _decode(data, shape[0])
    except ValueError as error:
        raise FormatError(
            f"{name!r} in {blobs.location}: {error}. Restore it from a copy, or write it again."
        ) from error


def _decode(data: bytes, n_labels: int) -> list[str]:
    body = data[:-4]
    if google_crc32c.value(body).to_bytes(4, "little") != data[-4:]:
        raise ValueError("its strings are damaged: the checksum does not match the bytes")
    if int.from_bytes(body[:4], "little") != n_labels:
        raise ValueError(f"it has not the {n_labels} strings that it declares")
    texts, at = [], 4
    for _ in range(n_labels):
        stop = at + 4 + int.from_bytes(body[at : at + 4], "little")
        if stop > len(body) or at + 4 > len(body):
            raise ValueError(f"it has not the {n_labels} strings that it declares")
        texts.append(body[at + 4 : stop].decode())
        at = stop
    return texts


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
