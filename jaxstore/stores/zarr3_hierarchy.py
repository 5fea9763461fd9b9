"""The groups and arrays of a Zarr v3 store: which there are, and their documents.

Owned here: looking documents up, replacing them, and the copy of all of them at the root by which
a sealed store opens at once. What stands in one is `zarr3_documents`.
"""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.stores.base import groups_above
from jaxstore.stores.blobs import Blobs, FileBlobs
from jaxstore.stores.files import is_partial
from jaxstore.stores.limits import MOST_DOCUMENT_BYTES
from jaxstore.stores.zarr3_checksum import COPIES, has_sound_copies, with_checksum
from jaxstore.stores.zarr3_documents import CREATED, DOCUMENT, RESERVED, Json, group_document
from jaxstore.stores.zarr3_parse import damaged, parse_document

_NO_COPIES: Json = {"kind": "inline", "must_understand": False, "metadata": {}}
_PLAIN = re.compile(r"[^\\\0\ud800-\udfff]{1,255}")  # longer is no name of a file


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
        if name:
            check_name(name)
        data = self._blobs.get(key_of(name, DOCUMENT), MOST_DOCUMENT_BYTES)
        if data is None:
            return None
        document = parse_document(data, name=name, location=self._blobs.location)
        if not has_sound_copies(document):
            self._check_copies(document)
        if self._is_writable:
            self._kept[name] = document
        return document

    def root(self) -> Json:
        """The document of the root, without the copies of a sealed store."""
        document = self.find("")
        if document is None:
            raise MissingError(f"{self._blobs.location}: the store is gone.")
        return {key: value for key, value in document.items() if key != COPIES}

    def replace(self, name: str, document: Json, *, own: Iterable[str] = ()) -> None:
        """Put a document, in one step for every reader.

        Args:
            name: Of the group or array.
            document: As it was found, or a new one.
            own: The attributes that were set in it; those of `RESERVED` go without saying.
        """
        if name and COPIES in (self.find("") or {}):
            self.replace("", self.root())  # before it is out of date
        document = with_checksum(document, own=(*RESERVED, *own))
        self._blobs.put(key_of(name, DOCUMENT), [json.dumps(document).encode()])
        self._kept[name] = document

    def forget(self) -> None:
        """Look again at documents that another may have replaced since."""
        self._kept.clear()

    def check_free(self, name: str) -> None:
        """Refuse a name that is taken."""
        if self.find(name) is not None:
            raise ExistsError(f"{name!r} in {self._blobs.location} is taken. Choose another name.")

    def make_groups(self, name: str) -> None:
        """Make every group above a name that is not there.

        Raises:
            ExistsError: One of them is an array.
        """
        found = {group: self.find(group) for group in groups_above(name)}
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
        copies = {
            name: {**document, COPIES: _NO_COPIES} if document["node_type"] == "group" else document
            for name, document in self.walk()
        }
        self.replace("", {**self.root(), COPIES: {**_NO_COPIES, "metadata": copies}})

    def _check_copies(self, document: Json) -> None:
        """Accept copies that another program has renewed, if they are copies."""
        found = document[COPIES] if isinstance(document[COPIES], dict) else {}
        copies: Any = found.get("metadata")
        is_plain = isinstance(copies, dict) and all(
            isinstance(copy, dict) and copy.get(COPIES) in (None, _NO_COPIES)
            for copy in copies.values()
        )
        if (
            not is_plain
            or found != {**_NO_COPIES, "metadata": copies}
            or {name: {**copy, COPIES: None} for name, copy in copies.items()}
            != {name: {**original, COPIES: None} for name, original in self.walk()}
        ):
            raise damaged(f"{self._blobs.location}: zarr.json of 'the root'")


def check_name(name: str) -> None:
    """Refuse parts that zarr or a file system understands in another way."""
    for part in name.split("/"):
        if part in ("", ".", "..", DOCUMENT) or not _PLAIN.fullmatch(part):
            raise FormatError(f"{name!r} is no name in a store: encode each part of it first.")


def key_of(name: str, part: str) -> str:
    """Key of a part of a group or array; the root has no name."""
    return f"{name}/{part}" if name else part


def make_root(blobs: Blobs, *, may_be_group: bool, attrs: Json) -> None:
    """Make the root where nothing is.

    Args:
        blobs: The place.
        may_be_group: Whether an empty group may be there already, which is then ours.
        attrs: Of a new root.

    Raises:
        ExistsError: Something is there, which stays as it is.
    """
    is_fresh = isinstance(blobs, FileBlobs) and blobs.make_folder()
    there = None if is_fresh else _anything(blobs)
    if there == DOCUMENT and may_be_group and (group := _empty_group(blobs)):
        blobs.put(DOCUMENT, [json.dumps(with_checksum(group)).encode()])
        return
    root = json.dumps(group_document({CREATED: uuid.uuid4().hex, **attrs})).encode()
    if there is not None or not blobs.put_new(DOCUMENT, root):
        raise ExistsError(
            f"{blobs.location} is not empty, it holds {there or DOCUMENT!r}. Nothing was changed. "
            "Choose another place, or open what is there."
        )
    if not is_fresh:
        blobs.tidy()


def _anything(blobs: Blobs) -> str | None:
    """A key that is there, other than of what a killed process had begun to write."""
    return next(itertools.filterfalse(is_partial, blobs.keys()), None)


def check_root(blobs: Blobs) -> None:
    """Refuse what is not a Zarr v3 group."""
    data = blobs.get(DOCUMENT, MOST_DOCUMENT_BYTES)
    if data is None:
        there = _anything(blobs)
        if there is None:
            raise MissingError(f"{blobs.location}: nothing is there. Correct the place.")
        data = blobs.get(DOCUMENT, MOST_DOCUMENT_BYTES)  # which may have come meanwhile
    if data is None:
        raise FormatError(
            f"{blobs.location} is no Zarr v3 group: it holds {there!r} but no {DOCUMENT}. "
            "Give the folder that holds it; convert Zarr v2 by zarr's `migrate`."
        )
    if parse_document(data, name="", location=blobs.location)["node_type"] != "group":
        raise FormatError(f"{blobs.location} is one Zarr array. Give the group above it.")


def _empty_group(blobs: Blobs) -> Json | None:
    """The document of the root if there is nothing but a group without attributes."""
    data = blobs.get(DOCUMENT, MOST_DOCUMENT_BYTES) or b""
    document = parse_document(data, name="", location=blobs.location)
    is_empty = not document.get("attributes") and list(blobs.keys()) == [DOCUMENT]
    return document if is_empty else None
