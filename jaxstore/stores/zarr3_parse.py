"""Reading a zarr.json that anybody may have written.

Owned here: what a document must be before the others trust its fields: bounded, of the right
structure, and, where it is ours, undamaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from jaxstore.errors import FormatError
from jaxstore.stores.limits import DEEPEST, MOST_DOCUMENT_BYTES
from jaxstore.stores.zarr3_checksum import CHECKSUM, COPIES, is_sound

Json = dict[str, Any]

_FIELDS = {"zarr_format", "node_type", "attributes", COPIES}
_OF_ARRAYS = {"shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value"}
_MAYBE = {"dimension_names", "storage_transformers"}
_MOST_AXES = 64  # NumPy's own limit


def parse_document(data: bytes, *, name: str, location: str) -> Json:
    """The document of a group or array.

    Raises:
        FormatError: It is none, or it is ours and was damaged.
    """
    what = f"{location}: zarr.json of {name or 'the root'!r}"
    if len(data) > MOST_DOCUMENT_BYTES:
        raise FormatError(
            f"{what} has {len(data):,} bytes; more than {MOST_DOCUMENT_BYTES:,} are not read."
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} cannot be read ({error!r}). Restore it from a copy.") from None
    if fault := _fault(document, data):
        raise FormatError(f"{what} cannot be read: {fault}. Restore it from a copy.")
    if not is_sound(document):
        raise damaged(what)
    parsed: Json = document
    return parsed


def damaged(what: str) -> FormatError:
    """The error of a document that does not match its checksum."""
    return FormatError(
        f"{what} was damaged, or changed by another program (its checksum differs). Restore it "
        f"from a copy; if the change was meant, delete its attribute {CHECKSUM!r}."
    )


def _fault(document: Any, data: bytes) -> str | None:
    """What is wrong with a document, None if it can be trusted to have its fields."""
    # As many brackets as levels at least, and counting those is a hundred times faster.
    if data.count(b"[") + data.count(b"{") > DEEPEST and _is_deep(document):
        return f"its lists and objects are more than {DEEPEST} deep"
    if not isinstance(document, dict):
        return "it is no JSON object"
    if document.get("zarr_format") != 3 or document.get("node_type") not in ("group", "array"):
        return "it is not of a Zarr v3 group or array"
    if not isinstance(document.get("attributes", {}), dict):
        return "its attributes are no JSON object"
    is_array = document["node_type"] == "array"
    unknown = set(document) - _FIELDS - (_OF_ARRAYS | _MAYBE if is_array else set())
    # The specification: a field that a reader does not know is an error, unless it says otherwise.
    for field in sorted(unknown):
        value = document[field]
        if not (isinstance(value, dict) and value.get("must_understand") is False):
            return f"its field {field!r} is not known"
    return next(_array_faults(document), None) if is_array else None


def _array_faults(document: Json) -> Iterator[str]:
    if missing := sorted(_OF_ARRAYS - set(document)):
        yield f"it has no {', '.join(missing)}"
        return
    shape = document["shape"]
    if not _is_extent(shape):
        yield "its shape is no list of sizes"
        return
    grid = document["chunk_grid"]
    if not _is_named(grid):
        yield "its chunk_grid has no name"
    elif grid["name"] == "regular":
        chunks = grid.get("configuration", {}).get("chunk_shape")
        if not _is_extent(chunks) or len(chunks) != len(shape):
            yield "its chunk_shape does not match its shape"
    if not _is_named(document["chunk_key_encoding"]):
        yield "its chunk_key_encoding has no name"
    codecs = document["codecs"]
    # Short names, as in "codecs": ["bytes"], are for zarr to read.
    if not isinstance(codecs, list) or not all(isinstance(c, str) or _is_named(c) for c in codecs):
        yield "its codecs are no list of names and configurations"
    if not isinstance(document["data_type"], str) and not _is_named(document["data_type"]):
        yield "its data_type has no name"
    dims = document.get("dimension_names") or [None] * len(shape)
    is_list = isinstance(dims, list) and all(isinstance(dim, str | None) for dim in dims)
    if not is_list or len(dims) != len(shape):
        yield "its dimension_names do not match its shape"


def _is_extent(sizes: Any) -> bool:
    if not isinstance(sizes, list) or len(sizes) > _MOST_AXES:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in sizes)


def _is_named(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return isinstance(value.get("configuration", {}), dict)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def parse_record(text: Any, *, location: str) -> Json:
    """The commit record in a text.

    Raises:
        FormatError: It is none.
    """
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise FormatError(f"{location}: the commit record cannot be read. Restore it from a copy.")
    return record
