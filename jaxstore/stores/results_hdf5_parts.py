"""What members write for a result in HDF5: each a file of its own, in a folder beside the target.

Owned here: the folder, which its owner has locked; the turn, by which members are kept from
writing once an owner takes what they wrote; and the copy of one member's units into the result.
The member itself is `results_hdf5_member`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import h5py
import numpy as np

from jaxstore.errors import BusyError, FormatError
from jaxstore.stores.files import put_file
from jaxstore.stores.folder_lock import FolderLock
from jaxstore.stores.hdf5_arrays import StoredArray, find_array
from jaxstore.stores.hdf5_chunks import bounded, chunks_of
from jaxstore.stores.hdf5_direct import read_chunk, write_chunk
from jaxstore.stores.hdf5_journal import remove_journal, settle_journal
from jaxstore.stores.hdf5_lock import lock_file, shared
from jaxstore.stores.holder import Holder, subject
from jaxstore.stores.results import DONE, Marks, Regions
from jaxstore.stores.results_hdf5_layout import Layout, read_marks

_log = logging.getLogger(__name__)
_DESCRIPTION, _TURN = "result.json", "turn"
Chunk = tuple[str, tuple[int, ...], int, bytes]  # array, origin, filters left out, bytes


@dataclass(frozen=True, slots=True)
class Description:
    """What a member has to know of the result."""

    layouts: tuple[Layout, ...]
    n_units: int
    turn: str  # of this sharing


def parts_folder(path: Path, group: str) -> Path:
    """Where the parts of the result in a group of a file lie."""
    return path.with_name(f"{path.name}.{quote(group, safe='')}.parts")


def part_path(folder: Path, writer: str) -> Path:
    """The file of one member."""
    return folder / f"{writer}.h5"


def is_shared(folder: Path) -> bool:
    """Whether an owner lets members write there, or did so until it was killed."""
    return (folder / _DESCRIPTION).exists()


class Parts:
    """The folder for its owner, locked until `free`.

    Raises:
        BusyError: Another owner has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._lock = FolderLock(str(folder))
        except BlockingIOError:
            raise BusyError(
                f"{folder}: {subject(_owner_of(folder), unknown='Another owner')} shares this "
                "result with members. Try again when it has finished."
            ) from None

    @classmethod
    def new(cls, folder: Path) -> Parts:
        """Make the folder if it is not there."""
        folder.mkdir(exist_ok=True)
        return cls(folder)

    @classmethod
    def left(cls, folder: Path) -> Parts | None:
        """What an owner left that was killed, None if there is nothing."""
        return cls(folder) if folder.is_dir() else None

    def describe(self, layouts: Sequence[Layout], *, n_units: int) -> None:
        """Let members in.

        Raises:
            BusyError: What earlier members wrote is not joined.
        """
        if self.paths():
            raise BusyError(f"{self.folder} holds what members wrote. Call `join` first.")
        turn = uuid.uuid4().hex
        put_file(str(self.folder / _TURN), [turn.encode()])
        head = {
            "arrays": [layout.to_json() for layout in layouts],
            "n_units": n_units,
            "turn": turn,
            "owner": Holder.of_this_process().to_json(),
        }
        put_file(str(self.folder / _DESCRIPTION), [json.dumps(head).encode()])

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Keep members from writing, for good; waits for what they write just now."""
        path = self.folder / _TURN
        if not path.exists():  # nobody was let in
            yield
            return
        file = lock_file(path, os.O_RDWR)
        if file is None:
            raise BusyError(f"{self.folder}: a member does not end its write. Try again later.")
        try:
            os.ftruncate(file, 0)
            yield
        finally:
            os.close(file)

    def paths(self) -> list[Path]:
        """The files of all members."""
        return sorted(self.folder.glob("*.h5"))

    def remove(self) -> None:
        """Remove the folder, when all is joined."""
        for name in (_DESCRIPTION, _TURN):  # members look for the first before they come in
            (self.folder / name).unlink(missing_ok=True)
        for left in self.folder.glob("*.partial"):  # never finished, by whomever
            left.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put another file into it
            self.folder.rmdir()

    def free(self) -> None:
        """Let other owners at it."""
        self._lock.free()


def read_description(folder: Path, *, location: str) -> Description:
    """What the owner told members.

    Raises:
        BusyError: It shares nothing, or no longer.
    """
    try:
        head = json.loads((folder / _DESCRIPTION).read_text())
    except FileNotFoundError:
        raise _not_shared(location) from None
    layouts = tuple(map(Layout.from_json, head["arrays"]))
    return Description(layouts, head["n_units"], head["turn"])


@contextlib.contextmanager
def turn_of(folder: Path, turn: str, *, location: str) -> Iterator[None]:
    """Keep owners from taking what a member just writes.

    Raises:
        BusyError: One has taken over.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(shared(folder / _TURN))
        except FileNotFoundError:
            raise _not_shared(location) from None
        if os.read(file, len(turn) + 1) != turn.encode():
            raise _not_shared(location)
        yield


def _not_shared(location: str) -> BusyError:
    """The error of a member whose owner does not share, or whose place another owner took."""
    return BusyError(
        f"{location}: its owner shares it with no member, or another owner took over. "
        "Open it as member after its owner called `share`."
    )


class Part:
    """What one member wrote, for reading; it must write no more.

    Raises:
        FormatError: It is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        settle_journal(path)
        try:
            # The member may live and have the file locked.
            self._file = h5py.File(path, "r", locking=False)
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error}. Remove it to go on.") from error

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def marks(self) -> Marks:
        """Of the units of this member; none if it was killed before it could write."""
        if not len(self._file):
            return np.zeros(0, np.uint8)
        return read_marks(self._file["/"], location=str(self._path))

    def chunks(self, unit: int, value: int, regions: Regions) -> list[Chunk] | None:
        """The chunks of a unit as they lie in the file; None if one of a done unit is damaged."""
        found: list[Chunk] = []
        for name, region in regions(unit):
            array = find_array(self._file["/"], name, location=str(self._path))
            if array is None:
                raise FormatError(f"{self._path} has no {name!r}. Remove it to go on.")
            for index, _ in chunks_of(
                bounded(region, array.dataset.shape, name=name), array.chunks
            ):
                origin = tuple(i * n for i, n in zip(index, array.chunks, strict=True))
                try:
                    found.append((name, origin, *_sound_chunk(array, origin)))
                except (OSError, RuntimeError, ValueError, MemoryError) as error:
                    if value == DONE:
                        _log.warning(
                            "%s: chunk %s of %r is damaged or absent (%s); unit %d is done again",
                            *(self._path, index, name, error, unit),
                        )
                        return None
        return found

    def remove(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink()
        remove_journal(self._path)


def put_chunk(array: StoredArray, origin: tuple[int, ...], skipped: int, data: bytes) -> None:
    """Put a chunk into an array as it lay in another with the same filters."""
    if array.dataset.chunks is None:
        array.dataset[...] = np.frombuffer(data, array.dataset.dtype).reshape(array.dataset.shape)
    else:
        write_chunk(array.dataset, origin, data, skipped=skipped)


def _sound_chunk(array: StoredArray, origin: tuple[int, ...]) -> tuple[int, bytes]:
    if array.dataset.chunks is None:
        return 0, np.asarray(array.dataset[...]).tobytes()
    skipped, data = read_chunk(array.dataset, origin)
    if array.codec is not None:
        array.codec.decode(data, skipped=skipped)
    return skipped, data


def _owner_of(folder: Path) -> Holder | None:
    try:
        head = json.loads((folder / _DESCRIPTION).read_text())
        return Holder.from_json(head["owner"], where=str(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return None
