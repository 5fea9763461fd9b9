"""The groups and arrays of a Zarr v3 store: which there are, and their documents.

Owned here: looking documents up, replacing them, and the copy of all of them at the root by which
a sealed store opens at once. What stands in one is `zarr3_documents`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.stores.blobs import Blobs, FileBlobs
from jaxstore.stores.zarr3_documents import CREATED, DOCUMENT, Json, group_document

_SEALED = "consolidated_metadata"


class Hierarchy:
    """Documents by name, the root under "".

    A writer is alone and keeps what it has seen; a reader looks again each time.
    """

    def __init__(self, blobs: Blobs, *, is_writable: bool) -> None:
        self._blobs = blobs
        self._is_writable = is_writable
        self._kept: dict[str, Json] = {}

    def find(self, name: str) -> Json | None:
        """The document of a group or array, None if there is none."""
        if name in self._kept:
            return self._kept[name]
        data = self._blobs.get(key_of(name, DOCUMENT))
        if data is None:
            return None
        document = _parse(data, f"{name or 'the root'!r} in {self._blobs.location}")
        if self._is_writable:
            self._kept[name] = document
        return document

    def root(self) -> Json:
        """The document of the root, without the copies of a sealed store."""
        document = self.find("")
        if document is None:
            raise MissingError(f"{self._blobs.location}: the store is gone.")
        return {key: value for key, value in document.items() if key != _SEALED}

    def replace(self, name: str, document: Json) -> None:
        """Put a document, in one step for every reader."""
        if name and _SEALED in (self.find("") or {}):
            self.replace("", self.root())  # before it is out of date
        self._blobs.put(key_of(name, DOCUMENT), [json.dumps(document).encode()])
        self._kept[name] = document

    def check_free(self, name: str) -> None:
        """Refuse a name that is taken."""
        if self.find(name) is not None:
            raise ExistsError(f"{name!r} in {self._blobs.location} is taken. Choose another name.")

    def make_groups(self, name: str) -> None:
        """Make every group above a name that is not there.

        Raises:
            ExistsError: One of them is an array.
        """
        parts = name.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts))]
        found = {group: self.find(group) for group in above}
        for group, document in found.items():
            if document is not None and document["node_type"] == "array":
                raise ExistsError(
                    f"{group!r} in {self._blobs.location} is an array, so it cannot hold {name!r}. "
                    "Choose another name."
                )
        for group, document in found.items():
            if document is None:
                self.replace(group, group_document({}))

    def walk(self, group: str = "") -> Iterator[tuple[str, Json]]:
        """All groups and arrays below a group, with their documents."""
        for folder in sorted(self._blobs.folders(group)):
            name = key_of(group, folder)
            document = self.find(name)
            if document is not None:
                yield name, document
                if document["node_type"] == "group":
                    yield from self.walk(name)

    def seal(self) -> None:
        """Copy all documents into that of the root, where zarr and xarray look first.

        Not by zarr.consolidate_metadata: it warns, and the filter for that is global to threads.
        """
        empty = {"kind": "inline", "must_understand": False, "metadata": {}}
        copies = {
            name: {**document, _SEALED: empty} if document["node_type"] == "group" else document
            for name, document in self.walk()
        }
        self.replace("", {**self.root(), _SEALED: {**empty, "metadata": copies}})


def key_of(name: str, part: str) -> str:
    """Key of a part of a group or array; the root has no name."""
    return f"{name}/{part}" if name else part


def make_root(blobs: Blobs, *, may_be_group: bool) -> None:
    """Make the root where nothing is.

    Args:
        blobs: The place.
        may_be_group: Whether an empty group may be there already.

    Raises:
        ExistsError: Something is there, which stays as it is.
    """
    is_fresh = isinstance(blobs, FileBlobs) and blobs.make_folder()
    there = None if is_fresh else next(iter(blobs.keys()), None)
    if there == DOCUMENT and may_be_group and _is_empty_group(blobs):
        return
    root = json.dumps(group_document({CREATED: uuid.uuid4().hex})).encode()
    if there is not None or not blobs.put_new(DOCUMENT, root):
        raise ExistsError(
            f"{blobs.location} is not empty, it holds {there or DOCUMENT!r}. Nothing was changed. "
            "Choose another place, or open what is there."
        )


def check_root(blobs: Blobs) -> None:
    """Refuse what is not a Zarr v3 group."""
    data = blobs.get(DOCUMENT)
    if data is None:
        there = next(iter(blobs.keys()), None)
        if there is None:
            raise MissingError(f"{blobs.location}: nothing is there. Correct the place.")
        raise FormatError(
            f"{blobs.location} is no Zarr v3 group: it holds {there!r} but no {DOCUMENT}. "
            "Give the folder that holds it; convert Zarr v2 by zarr's `migrate`."
        )
    if _parse(data, blobs.location)["node_type"] != "group":
        raise FormatError(f"{blobs.location} is one Zarr array. Give the group above it.")


def _is_empty_group(blobs: Blobs) -> bool:
    document = _parse(blobs.get(DOCUMENT) or b"", blobs.location)
    return not document.get("attributes") and list(blobs.keys()) == [DOCUMENT]


def _parse(data: bytes, what: str) -> Json:
    try:
        document: Json = json.loads(data)
        is_known = document["zarr_format"] == 3 and document["node_type"] in ("group", "array")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{what}: {DOCUMENT} cannot be read ({error!r}).") from None
    if not is_known:
        raise FormatError(f"{what}: {DOCUMENT} is not of a Zarr v3 group or array.")
    return document
