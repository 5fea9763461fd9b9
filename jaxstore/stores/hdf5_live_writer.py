"""What the writer of an HDF5 file tells the other processes that read it meanwhile.

Owned here: which files beside the HDF5 file there are while it is written, and when each of them
is replaced. Nothing here may harm the writer: where the telling fails, it ends, and readers have
to wait until the file is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import h5py

from jaxstore.errors import FormatError
from jaxstore.stores.base import Json
from jaxstore.stores.files import put_file, remove_partials
from jaxstore.stores.hdf5_attrs import COMMIT
from jaxstore.stores.hdf5_chunk_log import ChunkLog, log_path
from jaxstore.stores.hdf5_chunks import Index, places_of
from jaxstore.stores.hdf5_codec import codec_of
from jaxstore.stores.hdf5_description import describe, description_path
from jaxstore.stores.hdf5_record import (
    Beside,
    packed_text,
    parse_record,
    read_beside,
    record_path,
    replace_beside,
)
from jaxstore.stores.holder import Holder

ShapeOf = Callable[[str], tuple[int, ...]]  # that is published


class LiveWriter:
    """Tells where chunks lie and what counts, from `begin` to `end`."""

    def __init__(self, path: Path, *, durable: bool, is_new: bool) -> None:
        self._path = path
        self._durable = durable
        self._is_new = is_new  # this writer made the file, and has committed nothing yet
        self._holder: Holder | None = None  # while the file is open for writing
        self._log: ChunkLog | None = None
        self._is_broken = False
        self._names: list[str] = []  # arrays in the description
        self._stale: set[str] = set()  # arrays of which all chunks have to be told again
        self._version = 0
        self.is_changed = True  # attributes or arrays, since the description

    def begin(self, root: h5py.Group, shape_of: ShapeOf) -> None:
        """The file is open for writing; say so, and where the chunks of its last commit lie."""
        if self._holder is not None:
            return
        self._holder = Holder.of_this_process()
        self._is_broken = False
        try:
            remove_partials(self._path)
            beside = read_beside(self._path)
            record = None if beside is None else beside.record
            if record is None and COMMIT in root.attrs:
                record = parse_record(root.attrs[COMMIT], location=str(self._path))
            live = None if record is None else self._tell(root, shape_of)
            is_new = self._is_new and record is None
            beside = Beside(record, live, self._holder, is_new=is_new)
            replace_beside(self._path, beside, durable=False)
        except (OSError, FormatError):  # a damaged record stays for whoever asks for it
            self._break()

    def moving(self, name: str, index: Index | None = None) -> None:
        """A chunk, or all of an array, is about to be written again, or cut."""
        if index is None:
            self._stale.add(name)
        if self._log is not None:
            try:
                self._log.moving(name, index)
            except OSError:
                self._break()

    def placed(self, name: str, index: Index, *, offset: int, n_bytes: int) -> None:
        """A chunk was written."""
        if self._log is not None:
            self._log.placed(name, index, offset=offset, n_bytes=n_bytes)

    def flushing(self) -> None:
        """HDF5 is about to write in place what it keeps in memory.

        Raises:
            OSError: That cannot be said, so it must not.
        """
        if self._log is not None:
            self._log.flushing()

    def publish(self, root: h5py.Group, shape_of: ShapeOf) -> dict[str, Json] | None:
        """All that a record about to be written needs, for it; the file is flushed."""
        try:
            return None if self._is_broken else self._tell(root, shape_of)
        except OSError:
            self._break()
            return None

    def commit(self, record: dict[str, Json], live: dict[str, Json] | None) -> None:
        """Replace the record.

        Raises:
            OSError: It cannot be written; the one before is there.
        """
        replace_beside(self._path, Beside(record, live, self._holder), durable=self._durable)
        if live is None:
            _remove_told(self._path)

    @property
    def is_telling(self) -> bool:
        """Whether the file is open for writing."""
        return self._holder is not None

    def abandon(self) -> None:
        """The file is as a kill would leave it, and so is all that was told of it."""
        self._holder = None
        self._break()

    def end(self, *, is_sealed: bool) -> None:
        """The file is about to be closed; a record that is not inside it stays."""
        if self._holder is None:
            return
        self._holder = None
        with contextlib.suppress(OSError, FormatError):
            beside = read_beside(self._path)
            if is_sealed or (beside is not None and beside.record is None):
                record_path(self._path).unlink(missing_ok=True)
            elif beside is not None:
                left = Beside(beside.record, None, None)
                replace_beside(self._path, left, durable=self._durable)
            if self._log is not None:
                self._log.end(is_kept=False)
                self._log = None
            _remove_told(self._path)
        self._break()

    def _tell(self, root: h5py.Group, shape_of: ShapeOf) -> dict[str, Json]:
        if self._log is None:
            if root.file.userblock_size:
                raise OSError("chunks are counted from behind the user block")
            self._log = ChunkLog(self._path)
            self.is_changed = True
        if self.is_changed:
            self._version += 1
            found = describe(root, version=self._version)
            new = found["arrays"].keys() - self._names
            self._names, self._stale = list(found["arrays"]), self._stale | new
            text = packed_text(found)
            put_file(str(description_path(self._path)), [text.encode()])
            self.is_changed = False
        for name in sorted(self._stale):
            _tell_all(root[name], name, self._log)
        self._stale.clear()
        self._log.flush()
        return {
            "log": self._log.nonce,
            "log_bytes": self._log.n_bytes,
            "version": self._version,
            "shapes": {name: shape_of(name) for name in self._names},
        }

    def _break(self) -> None:
        """Tell no more until the file is opened again; what the record counts on stays."""
        self._is_broken = True
        self._names, self._stale = [], set()
        if self._log is not None:
            self._log.end(is_kept=True)
            self._log = None


def _remove_told(path: Path) -> None:
    """Remove what a writer told of a file, when no record counts on it."""
    for told in (description_path(path), log_path(path)):
        with contextlib.suppress(OSError):
            told.unlink()


def _tell_all(dataset: h5py.Dataset, name: str, log: ChunkLog) -> None:
    if codec_of(dataset) is None:
        return
    for index, (offset, n_bytes) in places_of(dataset):
        log.placed(name, index, offset=offset, n_bytes=n_bytes)
