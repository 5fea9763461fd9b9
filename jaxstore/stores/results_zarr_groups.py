"""Which folders of a Zarr store are results, and in which groups such lie.

Owned here: how a result is known, by its root document. What is in one is `results_zarr`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping

from jaxstore.errors import FormatError
from jaxstore.stores.base import Json
from jaxstore.stores.blobs import Blobs
from jaxstore.stores.limits import MOST_DOCUMENT_BYTES
from jaxstore.stores.results import RESULT
from jaxstore.stores.zarr3_documents import DOCUMENT
from jaxstore.stores.zarr3_hierarchy import key_of
from jaxstore.stores.zarr3_parse import parse_document

_DEEPEST = 16  # groups in one another that are looked into; links of folders may go in circles
_log = logging.getLogger("jaxstore")


def documents_below(blobs: Blobs) -> Iterator[tuple[str, bytes | FormatError | None]]:
    """Each folder in a place with its document, in order of names; none where no place is."""
    try:
        names = sorted(blobs.folders())
    except FileNotFoundError:
        return
    keys = (f"{name}/{DOCUMENT}" for name in names)
    yield from zip(names, blobs.get_many(keys, MOST_DOCUMENT_BYTES), strict=True)


def groups_of_results(blobs: Blobs) -> list[str]:
    """Groups below a group in which results lie, outer ones first: "day1/fits"."""
    (root,) = blobs.get_many([DOCUMENT], MOST_DOCUMENT_BYTES)
    waiting = [("", blobs)] if _is_group(root, blobs.location) else []
    found = set()
    for _ in range(_DEEPEST):
        above, waiting = waiting, []
        for group, place in above:
            for name, data in documents_below(place):
                if isinstance(data, bytes) and RESULT.encode() in data:
                    found.add(group)
                elif _is_group(data, f"{place.location}/{name}"):
                    waiting.append((key_of(group, name), place.below(name)))
    return sorted(found - {""})


def root_in(data: bytes | FormatError | None, *, location: str) -> dict[str, Json] | None:
    """The root document of a result, None if this is none, or half made.

    Raises:
        FormatError: It is damaged.
    """
    # Other programs' documents may be of any kind, and large.
    if not isinstance(data, bytes) or RESULT.encode() not in data:
        return None
    document = parse_document(data, name="", location=location)
    return document if RESULT in document.get("attributes", {}) else None


def manifest_of(attrs: Mapping[str, Json], *, location: str) -> dict[str, Json]:
    """The manifest among the attributes of a result.

    Raises:
        FormatError: It is damaged.
    """
    try:
        manifest = json.loads(attrs[RESULT])
    except (KeyError, ValueError, TypeError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        raise FormatError(f"{location}: its manifest cannot be read. Restore it from a copy.")
    return manifest


def _is_group(data: bytes | FormatError | None, location: str) -> bool:
    if not isinstance(data, bytes) or b'"group"' not in data:
        return False
    try:
        return bool(parse_document(data, name="", location=location)["node_type"] == "group")
    except FormatError as error:
        _log.warning("a group is left out: %s", error)
        return False
