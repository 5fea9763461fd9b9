"""The commit record of an HDF5 file: beside it while it is written, inside once it is sealed.

Owned here: where the record lies, and its replacement in one step. HDF5 cannot replace an
attribute so that a kill leaves either the old or the new one; a rename beside the file can.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from jaxstore.errors import ExistsError, FormatError
from jaxstore.stores.base import Json


def record_path(path: Path) -> Path:
    """Where the record of a file lies while the file is written."""
    return path.with_name(path.name + ".commit.json")


def refuse_orphan(path: Path) -> None:
    """Refuse to take over the record of a file that is gone.

    Raises:
        ExistsError: There is such a record.
    """
    record = record_path(path)
    if record.exists() and not path.exists():
        raise ExistsError(
            f"{record} is there, the commit record of a file that is not. Choose another path, "
            "or remove the record if that file is gone for good."
        )


def read_record(path: Path | None) -> str | None:
    """Text of the record beside a file, None if there is none."""
    try:
        return None if path is None else record_path(path).read_text()
    except FileNotFoundError:
        return None


def replace_record(path: Path, text: str) -> None:
    """Replace the record beside a file, so that a kill leaves the old one or the new one."""
    record = record_path(path)
    partial = record.with_name(record.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, record)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def parse_record(text: str, *, location: str) -> dict[str, Json]:
    """The record in a text.

    Raises:
        FormatError: It is not whole.
    """
    try:
        record: dict[str, Json] = json.loads(text)
    except ValueError as error:
        raise FormatError(
            f"The commit record of {location} is damaged: {error}. "
            "Restore it from a copy; without it nobody knows which rows count."
        ) from error
    return record
