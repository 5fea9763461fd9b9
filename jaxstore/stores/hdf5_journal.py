"""The journal beside an HDF5 file that is written: what counts in it, and what is being replaced.

Owned here: the journal, what a kill leaves made whole from it, and whether others changed the file
since. The file that writes one is `hdf5_journalled`.

HDF5 changes its metadata in place, so a kill in the midst of that could cost all that lies in the
file. So nothing that counted at the last commit is replaced in place: new bytes are appended, and
those that replace others are kept back until a commit. They are then written into the journal,
whole, whose rename is the commit; only after it into their places. From a journal the file can
always be made as it was committed, and between two commits it is so by itself.

Sources are told apart by the time of their last change, which our own commits would change. So a
file that we wrote says in itself when others changed it last, and what time it has got from us.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import h5py
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.stores.files import put_file, remove_partials, sync_folder
from jaxstore.stores.hdf5_attrs import WRITTEN
from jaxstore.stores.hdf5_lock import locked
from jaxstore.stores.hdf5_record import packed_text, parse_packed
from jaxstore.stores.holder import Holder

_PENDING, _IN_PLACE = b"P", b"A"  # the first byte of a journal
# A writer touches its journal at least that often before it writes, so that a file which is newer
# than its journal by more was changed by others.
TOUCH_S = 0.25
_OTHERS_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Journal:
    """A file as of its last commit."""

    length: int
    epoch: int  # mtime_ns at the last change by others
    mtime_ns: int  # what the file shall have
    writes: Sequence[tuple[int, bytes]]  # offsets and bytes of what was replaced
    holder: Holder | None  # who writes the file
    is_in_place: bool = False  # all writes are in the file


def journal_path(path: Path) -> Path:
    """Where the journal of a file lies, from the opening by a writer to its end."""
    return path.with_name(path.name + ".journal")


def put_journal(path: Path, journal: Journal, *, durable: bool) -> None:
    """Replace the journal of a file in one step."""
    body = b"".join(data for _, data in journal.writes)
    assert journal.holder is not None
    head = {
        "length": journal.length,
        "epoch": journal.epoch,
        "mtime_ns": journal.mtime_ns,
        "writes": [[offset, len(data)] for offset, data in journal.writes],
        "body": google_crc32c.value(body),
        "writer": journal.holder.to_json(),
    }
    # Without anything to replace there is nothing to put in place.
    state = _PENDING if body else _IN_PLACE
    put_file(
        str(journal_path(path)), [state, packed_text(head).encode(), b"\n", body], durable=durable
    )
    if durable:
        sync_folder(str(path.parent))


def note_in_place(path: Path) -> None:
    """Say that all writes of the journal are in the file."""
    with journal_path(path).open("r+b", buffering=0) as file:
        write_at(file.fileno(), _IN_PLACE, 0)


def read_journal(path: Path) -> Journal | None:
    """The journal of a file, None if there is none.

    Raises:
        FormatError: It is damaged.
    """
    try:
        found = journal_path(path).read_bytes()
    except FileNotFoundError:
        return None
    text, _, body = found[1:].partition(b"\n")
    head = parse_packed(text, location=str(journal_path(path)))
    if google_crc32c.value(body) != head["body"]:
        raise FormatError(
            f"{journal_path(path)} is damaged: its checksum differs. The last change of {path} "
            "may be torn; restore both from a copy."
        )
    writes, start = [], 0
    for offset, n in head["writes"]:
        writes.append((offset, body[start : start + n]))
        start += n
    return Journal(
        length=head["length"],
        epoch=head["epoch"],
        mtime_ns=head["mtime_ns"],
        writes=writes,
        holder=Holder.from_json(head["writer"], where=str(journal_path(path))),
        is_in_place=found[:1] == _IN_PLACE,
    )


def recover(path: Path) -> None:
    """Make a file as it was at its last commit, if its writer was killed.

    Raises:
        FormatError: Its journal is damaged.
    """
    if not journal_path(path).exists():
        return
    with locked(path) as is_mine:
        if is_mine:
            settle_journal(path)


def settle_journal(path: Path) -> None:
    """As `recover`, of a file whose lock is ours; what was killed in the midst can be repeated."""
    journal = read_journal(path)
    if journal is None:
        return
    with path.open("r+b", buffering=0) as file:
        if not _is_changed(path, journal) and not _is_changed_in_place(file.fileno(), journal):
            os.utime(journal_path(path))  # from here on the file is newer by our own doing
            put_in_place(file.fileno(), journal.writes)
            os.ftruncate(file.fileno(), journal.length)
            os.fsync(file.fileno())  # the journal may be gone from the disk sooner
            status = os.fstat(file.fileno())
            os.utime(path, ns=(status.st_atime_ns, journal.mtime_ns))
    remove_journal(path)


def remove_journal(path: Path) -> None:
    """End the journal of a file that is at rest."""
    journal_path(path).unlink(missing_ok=True)
    remove_partials(journal_path(path))


def put_in_place(file: int, writes: Sequence[tuple[int, bytes]]) -> None:
    """Write into a file what the journal holds."""
    for offset, data in writes:
        write_at(file, data, offset)


def write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset."""
    left = memoryview(data).cast("B")
    while left:
        n_written = os.pwrite(file, left[: 1 << 24], offset)  # of more, other systems refuse some
        left, offset = left[n_written:], offset + n_written


def epoch_of(path: Path) -> int:
    """When a file was last changed, in nanoseconds, not counting what jaxstore added to it.

    Raises:
        FileNotFoundError: There is no such file.
    """
    try:
        journal = read_journal(path)
    except FormatError:
        journal = None
    if journal is not None and not _is_changed(path, journal):
        return journal.epoch
    changed = os.stat(path).st_mtime_ns
    # Not by its path: HDF5 would show what it remembers of a file that this process has open.
    with (
        contextlib.suppress(OSError, RuntimeError, ValueError, KeyError),
        path.open("rb") as raw,
        h5py.File(raw, "r") as file,
    ):
        return epoch_in(file["/"], mtime_ns=changed)
    return changed


def write_epoch(root: h5py.Group, *, epoch: int, mtime_ns: int) -> None:
    """Say in a file when others changed it last, and what time it is about to get."""
    value = np.array([epoch, mtime_ns], np.int64)
    if WRITTEN in root.attrs:
        root.attrs.modify(WRITTEN, value)  # in its place: another attribute would leave a hole
    else:
        root.attrs[WRITTEN] = value


def epoch_in(root: h5py.Group, *, mtime_ns: int) -> int:
    """When others changed an open file last, which was changed last at a time."""
    value = np.asarray(root.attrs.get(WRITTEN, ()))
    is_ours = value.shape == (2,) and value.dtype.kind == "i" and value[1] == mtime_ns
    return int(value[0]) if is_ours else mtime_ns


def _is_changed(path: Path, journal: Journal) -> bool:
    """Whether others wrote to a file since its writer was killed."""
    try:
        touched = os.stat(journal_path(path)).st_mtime_ns
    except FileNotFoundError:  # its writer just ended
        return True
    changed = os.stat(path).st_mtime_ns
    return changed != journal.mtime_ns and changed > touched + _OTHERS_NS


def _is_changed_in_place(file: int, journal: Journal) -> bool:
    """Whether others changed within the second what we had put in place."""
    if os.fstat(file).st_size < journal.length:
        return True
    return journal.is_in_place and any(
        os.pread(file, len(data), offset) != data for offset, data in journal.writes
    )
