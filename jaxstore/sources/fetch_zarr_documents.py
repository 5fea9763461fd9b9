"""The arrays of a Zarr hierarchy, v3 or v2: where their documents lie.

Owned here: finding them by name or by walking, in copies that were consolidated or one by one.
They are fetched here, so that requests are tried again and errors hold no secrets, and parsed by
zarr from memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zarr
import zarr.errors
from zarr.core.buffer import default_buffer_prototype

from jaxstore.errors import FormatError, MissingError
from jaxstore.stores.blobs import Blobs
from jaxstore.stores.limits import MOST_DOCUMENT_BYTES
from jaxstore.stores.zarr3_checksum import COPIES
from jaxstore.stores.zarr3_documents import DOCUMENT
from jaxstore.stores.zarr3_hierarchy import check_name, key_of
from jaxstore.stores.zarr3_parse import parse_document

Json = dict[str, Any]

_ARRAY2, _GROUP2, _COPIES2 = ".zarray", ".zgroup", ".zmetadata"  # of Zarr v2
_NUMBERS = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)")
_NUMBERS2 = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)")
_FILE_NAME = re.compile(r"[\w.+-]+")
_MOST_SHOWN = 10  # names in a message
_FAULTS = (ValueError, TypeError, LookupError, NotImplementedError, zarr.errors.BaseZarrError)


@dataclass(frozen=True, slots=True)
class Node:
    """A group or array, as its document tells."""

    format: int
    is_array: bool
    document: Json
    copies: Mapping[str, Json] = field(default_factory=dict)  # of arrays below, by name

    @property
    def has_rows(self) -> bool:
        """Whether it is an array of numbers with an axis at least."""
        declared = self.document.get("data_type" if self.format == 3 else "dtype")
        known = _NUMBERS if self.format == 3 else _NUMBERS2
        is_numbers = isinstance(declared, str) and known.fullmatch(declared) is not None
        return self.is_array and is_numbers and bool(self.document.get("shape"))


@dataclass(frozen=True, slots=True)
class Found:
    """An array, parsed by zarr, and where it lies."""

    folder: str  # key of the array below the root of its place
    array: Any  # zarr.Array of the document alone, without chunks


def find_arrays(blobs: Blobs, names: Sequence[str] | None) -> dict[str, Found]:
    """Arrays of numbers by name.

    Args:
        blobs: A group, or one array, which is named as the last part of its path.
        names: Paths inside the group; None for all arrays that have rows of numbers.

    Raises:
        MissingError: There is nothing, or no array of this name.
        FormatError: A document is damaged, or an array that was asked for has no rows of numbers.
    """
    if names is None:
        nodes = {folder: node for folder, node in _all_arrays(blobs) if node.has_rows}
    else:
        nodes = dict(_named(blobs, name) for name in names)
    own = root_name(blobs)
    return {
        folder or own: Found(folder, _parsed(folder or own, node, location=blobs.location))
        for folder, node in nodes.items()
    }


def root_name(blobs: Blobs) -> str:
    """What an array is called that is all there is in its place."""
    last = (blobs.prefix.rstrip("/") or blobs.location.rstrip("/")).rpartition("/")[2]
    is_memory = blobs.location.startswith("memory:") and not blobs.prefix
    return last if _FILE_NAME.fullmatch(last) and not is_memory else "array"


def _all_arrays(blobs: Blobs) -> Iterator[tuple[str, Node]]:
    root = _node(blobs, "")
    if root is None:
        raise MissingError(f"{blobs.location} holds no Zarr group or array. Correct the place.")
    if root.is_array:
        yield "", _with_rows(root_name(blobs), root, location=blobs.location)
    elif root.copies:
        for name, document in sorted(root.copies.items()):
            check_name(name)
            yield name, Node(root.format, True, document)
    else:
        yield from _walk(blobs, "")


def _walk(blobs: Blobs, group: str) -> Iterator[tuple[str, Node]]:
    for folder in sorted(blobs.folders(group)):
        if folder.startswith(".z"):  # documents of v2, which some stores list as well
            continue
        name = key_of(group, folder)
        node = _node(blobs, name)
        if node is None:
            continue
        if node.is_array:
            yield name, node
        else:
            yield from _walk(blobs, name)


def _named(blobs: Blobs, name: str) -> tuple[str, Node]:
    """An array and its folder, which is the root if the name is that of the place."""
    folder, node = name, _node(blobs, name)
    if node is None:
        root = _node(blobs, "")
        if root is not None and root.is_array and name == root_name(blobs):
            folder, node = "", root
        elif root is not None and name in root.copies:
            node = Node(root.format, True, root.copies[name])
        else:
            raise MissingError(_no_array(blobs, name, root))
    if not node.is_array:
        raise FormatError(f"{name!r} in {blobs.location} is a group. Name the arrays in it.")
    return folder, _with_rows(name, node, location=blobs.location)


def _no_array(blobs: Blobs, name: str, root: Node | None) -> str:
    if root is None:
        return f"{blobs.location} holds no Zarr group with an array {name!r}. Correct the place."
    there = [root_name(blobs)] if root.is_array else sorted(root.copies or blobs.folders())
    shown = ", ".join(there[:_MOST_SHOWN]) + ", ..." * (len(there) > _MOST_SHOWN)
    return f"{blobs.location} has no array {name!r}, but {shown or 'nothing'}. Correct the name."


def _with_rows(name: str, node: Node, *, location: str) -> Node:
    if not node.has_rows:
        declared = node.document.get("data_type", node.document.get("dtype"))
        what = f"shape {node.document.get('shape')} and dtype {declared}"
        raise FormatError(
            f"{name!r} in {location} has {what}: that is no array with rows of numbers. Name "
            "others, or store text as integers."
        )
    return node


def _node(blobs: Blobs, name: str) -> Node | None:
    """A group or array by name, the root under ""; None if there is none."""
    if name:
        check_name(name)
    location = blobs.location
    data = blobs.get(key_of(name, DOCUMENT), MOST_DOCUMENT_BYTES)
    if data is not None:
        document = parse_document(data, name=name, location=location)
        return Node(3, document["node_type"] == "array", document, _copies3(document))
    if found := _json(blobs, key_of(name, _ARRAY2)):
        return Node(2, True, found)
    group = _json(blobs, key_of(name, _GROUP2))
    copies = _json(blobs, _COPIES2) if not name else None
    if group is None and copies is None:
        return None
    return Node(2, False, group or {}, _copies2(copies or {}))


def _copies3(document: Json) -> dict[str, Json]:
    held = document.get(COPIES)
    copies = held.get("metadata") if isinstance(held, dict) else None
    pairs = copies.items() if isinstance(copies, dict) else ()
    return {
        name: copy
        for name, copy in pairs
        if isinstance(copy, dict) and copy.get("node_type") == "array"
    }


def _copies2(document: Json) -> dict[str, Json]:
    copies = document.get("metadata")
    pairs = copies.items() if isinstance(copies, dict) else ()
    ending = f"/{_ARRAY2}"
    return {
        key.removesuffix(ending): copy
        for key, copy in pairs
        if key.endswith(ending) and isinstance(copy, dict)
    }


def _json(blobs: Blobs, key: str) -> Json | None:
    """A document of Zarr v2."""
    data = blobs.get(key, MOST_DOCUMENT_BYTES)
    if data is None:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FormatError(f"{key!r} in {blobs.location} cannot be read. Restore it from a copy.")
    return document


def _parsed(name: str, node: Node, *, location: str) -> Any:
    data = json.dumps(node.document).encode()
    if node.format == 3:
        parse_document(data, name=name, location=location)  # a copy has not been checked yet
    held = {DOCUMENT if node.format == 3 else _ARRAY2: data}
    prototype = default_buffer_prototype()
    try:
        store: Any = {key: prototype.buffer.from_bytes(text) for key, text in held.items()}
        return zarr.open_array(store, mode="r", zarr_format=3 if node.format == 3 else 2)
    except _FAULTS as error:
        raise FormatError(
            f"{name!r} in {location} cannot be read by zarr: {str(error).rstrip('.')}. Restore its "
            "metadata from a copy, or install the codec that it names."
        ) from error
