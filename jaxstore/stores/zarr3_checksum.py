"""The checksum of a zarr.json, which stands in an attribute of it.

Owned here: what is covered. All fields are, and of the attributes those that jaxstore wrote:
what others add later stays legal, and documents of others have no checksum.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import google_crc32c

Json = dict[str, Any]

# Its value is text: xarray writes no attribute to netCDF that is an object.
CHECKSUM = "jaxstore_checksum"
COPIES = "consolidated_metadata"  # of other documents, at the root; another program may renew them
_LIKE_OURS = re.compile(r'\{"crc32c": "[0-9a-f]{8}", "of": \{')


def with_checksum(document: Json, *, own: Iterable[str] | None = None) -> Json:
    """The document with a checksum of what it is now.

    Args:
        document: Of a group or array.
        own: Attributes that were set, and are jaxstore's; those covered before stay so. A document
            without a checksum is another program's, and stays without. None: it is new, and all of
            it is ours.
    """
    attrs = document.get("attributes", {})
    if own is not None and CHECKSUM not in attrs:
        return document
    names = (set(attrs) if own is None else set(own) & set(attrs)) - {CHECKSUM}
    # What was not set anew is what it was: a commit sums up its record, not the whole manifest.
    before = {} if own is None else _told(document)["of"]
    told: Json = {"crc32c": "", "of": {**before, **{name: _crc(attrs[name]) for name in names}}}
    if COPIES in document:
        told["copies"] = _crc(document[COPIES])
    told["crc32c"] = _crc_of_all(document, told)
    return {**document, "attributes": {**attrs, CHECKSUM: json.dumps(told)}}


def is_sound(document: Json) -> bool:
    """Whether all that is covered, copies apart, is as jaxstore wrote it."""
    attrs = document.get("attributes", {})
    if CHECKSUM not in attrs:
        # A damaged name of the attribute does not make the document another program's.
        return not any(isinstance(v, str) and _LIKE_OURS.match(v) for v in attrs.values())
    try:
        told = _told(document)
        is_whole = bool(told["crc32c"] == _crc_of_all(document, told))
        return is_whole and all(_crc(attrs[name]) == crc for name, crc in told["of"].items())
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def has_sound_copies(document: Json) -> bool:
    """Whether the copies of other documents are those that jaxstore put there, or there are none.

    Only of a document that is sound by itself.
    """
    if COPIES not in document or CHECKSUM not in document.get("attributes", {}):
        return True
    return bool(_told(document).get("copies") == _crc(document[COPIES]))


def _told(document: Json) -> Json:
    told: Json = json.loads(document["attributes"][CHECKSUM])
    return told


def _crc_of_all(document: Json, told: Json) -> str:
    """Of the fields, and of what is told beside this checksum."""
    fields = {key: v for key, v in document.items() if key not in ("attributes", COPIES)}
    return _crc({**fields, CHECKSUM: {**told, "crc32c": ""}})


def _crc(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return f"{google_crc32c.value(text.encode()):08x}"
