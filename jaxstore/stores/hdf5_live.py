"""A file of HDF5 that another process writes at this moment, read as of its last commit.

Owned here: reading past HDF5, which would neither give the file nor its metadata. What is read
lies whole on the disk since the commit, and where it lies is told by the writer (`hdf5_live_writer`
and `hdf5_chunk_log`). Nothing here takes a lock that the writer could meet.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import from_stored
from jaxstore.stores.hdf5_chunk_log import ChunkIndex, Place, WriterGone
from jaxstore.stores.hdf5_chunks import ChunkError, Index, Region, bounded, chunks_of, gather
from jaxstore.stores.hdf5_description import (
    DescribedArray,
    Description,
    description_path,
    parse_description,
)
from jaxstore.stores.hdf5_record import (
    Beside,
    beside_bytes,
    parse_beside,
    parse_packed,
    read_beside,
)
from jaxstore.stores.holder import subject
from jaxstore.stores.limits import check_memory

PATIENCE_S = 2.0  # for what a writer does between two steps of its own, such as sealing a file
PAUSE_S = 0.002


class LiveFile:
    """A file as of the last commit of the process that writes it, or was killed when it did.

    Every method raises WriterGone once nobody writes it any more, or somebody else does.

    Args:
        path: Of the file.
        is_killed: Whether its writer was killed; else it has to live.

    Raises:
        BusyError: It is written, but nothing is committed yet, or not so that it could be read.
        WriterGone: Nobody writes it, or not yet, or no longer; or nobody was killed.
    """

    def __init__(self, path: Path, *, is_killed: bool = False) -> None:
        self._path = path
        self._is_killed = is_killed
        beside = read_beside(path)
        if beside is None or (is_killed and beside.live is None):
            raise WriterGone
        if beside.live is None:
            raise _not_to_be_read(path, beside)
        self._index = ChunkIndex(path, is_killed=is_killed)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._lock = threading.Lock()  # guards all below and what of the log counts
        self._beside = b""  # as it was when it was last taken up
        self._record: dict[str, Json] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._description = Description(0, {}, {}, {})
        self._refresh()

    @property
    def description(self) -> Description:
        """What it holds."""
        return self._description

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its arrays."""
        return self._shapes

    def is_torn(self) -> bool:
        """Whether HDF5 may have been stopped in the midst of writing in place."""
        return self._index.is_torn()

    def places(self, name: str) -> dict[Index, Place]:
        """Where the chunks inside the shape of an array lie."""
        chunks = self._array(name).chunks
        return {
            index: place
            for index, place in self._index.places(name).items()
            if all(i * n < m for i, n, m in zip(index, chunks, self._shapes[name], strict=True))
        }

    def chunks(self, name: str) -> Iterator[tuple[Index, bytes]]:
        """The bytes of these chunks, of a file whose writer was killed.

        A chunk that the writer freed after its last commit, to cut the array, is left out.

        Raises:
            FormatError: A chunk is damaged.
        """
        codec = self._array(name).codec
        freed = self._index.announced(name)
        for index, (offset, n_bytes) in self.places(name).items():
            data = os.pread(self._file, n_bytes, offset)
            try:
                if codec is not None:
                    codec.decode(data)
            except ValueError as error:
                if freed & {index, None}:
                    continue
                raise FormatError(
                    f"{name!r} in {self._path}: chunk {index} is damaged: {error}. Restore the "
                    "file from a copy."
                ) from error
            yield index, data

    def names(self, *, with_labels: bool = False) -> list[str]:
        """Names of the arrays."""
        self._refresh()
        return sorted([*self._shapes, *(self._description.labels if with_labels else ())])

    def spec(self, name: str) -> ArraySpec:
        """How an array lies in the file."""
        self._refresh()
        self._array(name)
        return self._description.spec(name, self._shapes[name])

    def attrs(self, name: str) -> dict[str, Json]:
        """Attributes of the root, a group or an array."""
        self._refresh()
        if name not in self._description.attrs:
            raise self._missing(name)
        return dict(self._description.attrs[name])

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate."""
        self._refresh()
        found = self._description.labels.get(name)
        return None if found is None else list(found)

    def committed(self) -> dict[str, Json]:
        """The record."""
        self._refresh()
        return self._record

    def read(self, name: str, region: Region, *, is_strict: bool) -> np.ndarray[Any, Any]:
        """Copy out a region."""
        until = time.monotonic() + PATIENCE_S
        while True:
            self._refresh()
            array = self._array(name)
            part = bounded(region, self._shapes[name], name=name)
            shape = tuple(s.stop - s.start for s in part)
            what = f"{name!r} in {self._path}: the region of {shape}"
            check_memory(math.prod(shape) * array.dtype.itemsize, what)
            error: ChunkError | None = None
            since = self._index.n_bytes
            try:
                values = self._gather(name, array, part, is_strict=is_strict)
            except ChunkError as caught:
                error = caught
            if not self._has_moved(name, array, part, since=since):
                if error is not None:
                    raise error.named(name, location=str(self._path)) from None
                return from_stored(values, array.dtype)
            if time.monotonic() > until:
                raise BusyError(
                    f"{name!r} in {self._path}: what this asks for is being written again. "
                    "Try again after the next commit."
                )
            time.sleep(PAUSE_S)

    def damage(self, name: str, region: Region) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk."""
        self._refresh()
        array = self._array(name)
        for index, part in chunks_of(bounded(region, self._shapes[name], name=name), array.chunks):
            for _ in range(2):  # once more where it had moved
                self._refresh()
                since = self._index.n_bytes
                try:
                    self._gather(name, array, part, is_strict=True)
                    break
                except ChunkError as error:
                    text = str(error)
                if not self._has_moved(name, array, part, since=since):
                    yield text
                    break
            else:
                raise BusyError(
                    f"{name!r} in {self._path}: chunk {index} is being written again. "
                    "Try again after the next commit."
                )

    def _gather(
        self, name: str, array: DescribedArray, region: Region, *, is_strict: bool
    ) -> np.ndarray[Any, Any]:
        def fetch(chunk: Index) -> tuple[int, bytes] | None:
            place = self._index.place(name, chunk)
            if place is None:
                return None
            offset, n_bytes = place
            data = os.pread(self._file, n_bytes, offset)
            if len(data) < n_bytes:
                raise ChunkError(chunk, f"is cut short: {len(data)} of {n_bytes} bytes are there")
            return 0, data

        assert array.codec is not None
        return gather(region, array.codec, array.fill, fetch=fetch, is_strict=is_strict)

    def _has_moved(self, name: str, array: DescribedArray, region: Region, *, since: int) -> bool:
        """Whether a chunk of what was just read may have moved while it was read."""
        moved = self._index.moved(since)
        # What a killed writer was about to move does so no more; checksums tell of the rest.
        if not moved or self._is_killed:
            return False
        touched = {(name, index) for index, _ in chunks_of(region, array.chunks)}
        return (name, None) in moved or bool(touched & moved)

    def _refresh(self) -> None:
        """Take up what was committed last."""
        until = time.monotonic() + PATIENCE_S
        while True:
            with self._lock:
                if self._take_up():
                    return
            if time.monotonic() > until:
                raise BusyError(
                    f"{self._path}: its writer has stopped in the midst of a commit. Try again "
                    "once it goes on or has ended."
                )
            time.sleep(PAUSE_S)

    def _take_up(self) -> bool:
        """Take it up; False if it tells of a description that is not there yet."""
        self._index.check()
        found = beside_bytes(self._path)
        if found is None:
            raise WriterGone
        if found == self._beside:
            return True
        beside = parse_beside(found, path=self._path)
        live = beside.live
        if live is None or beside.record is None or live["log"] != self._index.nonce:
            raise WriterGone  # another one has begun
        if live["version"] > self._description.version:
            where = description_path(self._path)
            try:
                text = where.read_bytes()
            except FileNotFoundError:
                raise WriterGone from None
            self._description = parse_description(
                parse_packed(text, location=str(where)), location=str(where)
            )
            if live["version"] > self._description.version:
                return False
        self._index.advance(live["log_bytes"])
        self._record, self._beside = beside.record, found
        self._shapes = {name: tuple(shape) for name, shape in live["shapes"].items()}
        return True

    def _array(self, name: str) -> DescribedArray:
        if name not in self._shapes:
            raise self._missing(name)
        array = self._description.arrays[name]
        if array.codec is None:
            raise BusyError(
                f"{name!r} in {self._path}: its filters are such that only HDF5 can read it, "
                "which it does not while another process writes. Try again when that has finished."
            )
        return array

    def _missing(self, name: str) -> MissingError:
        there = ", ".join(map(repr, sorted(self._shapes))) or "nothing"
        return MissingError(f"There is no {name!r} in {self._path}. There is: {there}.")


def _not_to_be_read(path: Path, beside: Beside) -> BusyError:
    who = subject(beside.holder)
    if beside.record is None:
        return BusyError(f"{path}: {who} writes it and has not committed yet. Try again later.")
    return BusyError(
        f"{path}: {who} has the file open for writing, and not so that it could be read "
        "meanwhile. Try again when it has finished or closed it."
    )
