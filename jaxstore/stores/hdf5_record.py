"""The commit record of an HDF5 file: beside it while it is written, inside once it is sealed.

Owned here: where the record lies, its checksum, its replacement in one step, and what is written
down around it of the writer. HDF5 cannot replace an attribute so that a kill leaves either the old
or the new one; a rename beside the file can.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from jaxstore.errors import ExistsError, FormatError
from jaxstore.stores.base import Json
from jaxstore.stores.files import put_file, sync_folder
from jaxstore.stores.holder import Holder

_BLOB = re.compile(r"[a-z0-9]+-[0-9]+")  # of the keys of blobs, those that runs write


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside a file that is written, or that a killed writer left."""

    record: dict[str, Json] | None  # None before the first commit
    live: dict[str, Json] | None  # where readers find what the record counts; see `hdf5_live`
    holder: Holder | None  # who writes it, or wrote it until it was killed
    is_mended: bool = False  # the file that counts still has another name; see `hdf5_mending`
    is_new: bool = False  # the writer made the file, and has committed nothing yet


def record_path(path: Path) -> Path:
    """Where the record of a file lies while the file is written."""
    return path.with_name(path.name + ".commit.json")


def refuse_orphan(path: Path) -> None:
    """Refuse to take over the record, or a blob, of a file that is gone.

    Raises:
        ExistsError: There is one.
    """
    if path.exists() or not path.parent.is_dir():
        return
    start = f"{path.name}."
    ends = (e.name.removeprefix(start) for e in os.scandir(path.parent) if e.name.startswith(start))
    for end in sorted(ends):
        if end == "commit.json" or _BLOB.fullmatch(end):
            raise ExistsError(
                f"{path}.{end} is there, of a run whose file is not. Choose another path, "
                "or remove it if that file is gone for good."
            )


def beside_bytes(path: Path) -> bytes | None:
    """What lies beside a file as it stands there, None if there is nothing."""
    try:
        return record_path(path).read_bytes()
    except FileNotFoundError:
        return None


def read_beside(path: Path) -> Beside | None:
    """What lies beside a file, None if there is nothing.

    Raises:
        FormatError: It is damaged.
    """
    found = beside_bytes(path)
    return None if found is None else parse_beside(found, path=path)


def record_beside(path: Path | None) -> dict[str, Json] | None:
    """The record beside a file; None if there is none, or no such file.

    Raises:
        FormatError: It is damaged.
    """
    beside = None if path is None else read_beside(path)
    return None if beside is None else beside.record


def parse_beside(text: bytes, *, path: Path) -> Beside:
    """What `beside_bytes` gave, taken apart.

    Raises:
        FormatError: It is damaged.
    """
    found = _parsed(text, location=str(path))
    try:
        holder = Holder.from_json(found.pop("writer", None), where=str(path))
    except FormatError:
        holder = None  # nothing depends on it but the words of an error
    is_new = found.pop("new", False) is True
    body = _checked(found, location=str(path)) if found else {}
    is_mended = body.get("mended") is True
    return Beside(body.get("record"), body.get("live"), holder, is_mended, is_new)


def replace_beside(path: Path, beside: Beside, *, durable: bool) -> None:
    """Replace what lies beside a file, so that a kill leaves the old or the new."""
    body = {"record": beside.record, "live": beside.live, "mended": beside.is_mended or None}
    packed = _packed({key: value for key, value in body.items() if value is not None})
    if beside.record is None:
        packed = {}
    if beside.holder is not None:
        packed["writer"] = beside.holder.to_json()
    if beside.is_new:
        packed["new"] = True
    put_file(str(record_path(path)), [json.dumps(packed).encode()], durable=durable)
    if durable:
        sync_folder(str(path.parent))


def record_text(record: Mapping[str, Json]) -> str:
    """The record as it lies inside a file."""
    return packed_text({"record": dict(record)})


def parse_record(text: str, *, location: str) -> dict[str, Json]:
    """The record in a text.

    Raises:
        FormatError: It is damaged.
    """
    record = parse_packed(text, location=location).get("record")
    if not isinstance(record, dict):
        raise _damaged(location, f"it is {record!r:.40}")
    return record


def packed_text(body: Mapping[str, Json]) -> str:
    """JSON with its checksum, for `parse_packed`."""
    return json.dumps(_packed(body))


def parse_packed(text: str | bytes, *, location: str) -> dict[str, Json]:
    """What `packed_text` was given.

    Raises:
        FormatError: It is damaged.
    """
    return _checked(_parsed(text, location=location), location=location)


def _packed(body: Mapping[str, Json]) -> dict[str, Json]:
    plain = json.loads(json.dumps(body))  # as a reader will have it
    return {"crc32c": _crc(plain), **plain}


def _parsed(text: str | bytes, *, location: str) -> dict[str, Json]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(location, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(location, f"it is {found!r:.40}")
    return found


def _checked(found: dict[str, Json], *, location: str) -> dict[str, Json]:
    body = {key: value for key, value in found.items() if key != "crc32c"}
    if found.get("crc32c") != _crc(body):
        raise _damaged(location, "its checksum differs")
    return body


def _crc(body: Mapping[str, Json]) -> str:
    return f"{google_crc32c.value(json.dumps(body).encode()):08x}"


def _damaged(location: str, what: str) -> FormatError:
    return FormatError(
        f"The commit record of {location} is damaged: {what}. "
        "Restore it from a copy; without it nobody knows which rows count."
    )
