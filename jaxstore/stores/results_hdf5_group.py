"""One result in an HDF5 file, for its owner and for readers.

Owned here: what they do with it. How it lies in the file is `results_hdf5_layout`; members are
`results_hdf5_member`, what they leave `results_hdf5_parts`.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import BusyError, MismatchError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import to_stored
from jaxstore.stores.hdf5_arrays import StoredArray, check_write
from jaxstore.stores.hdf5_chunks import bounded
from jaxstore.stores.hdf5_opened import Opened
from jaxstore.stores.hdf5_scales import fit_dims
from jaxstore.stores.results import DONE, Array, Marks, Region, Regions, Role
from jaxstore.stores.results_hdf5_file import Access, WriterAccess
from jaxstore.stores.results_hdf5_layout import (
    Layout,
    make_result_arrays,
    names_in,
    put_marks,
    read_manifest,
    read_marks,
    replace_marks,
    write_manifest,
)
from jaxstore.stores.results_hdf5_parts import Part, Parts, parts_folder, put_chunk
from jaxstore.stores.results_roles import check_array_name, check_may

OWNER = "owner"  # its name among the writers of marks
_JOINED_BYTES = 1 << 26  # copied in one commit


class HDF5Result:
    """A result for its owner or a reader; made by `HDF5Results`.

    Args:
        access: To the file. It is closed with the result.
        path: Of the group in the file.
        role: Of this process.
        filters: Of arrays that are made from now on.
        parts: What members of an owner left that was killed, None for nothing.
        durable: Whether what is marked outlives a power loss.
    """

    def __init__(
        self,
        access: Access,
        path: str,
        *,
        role: Role,
        filters: Mapping[str, Any],
        parts: Parts | None,
        durable: bool,
    ) -> None:
        self._access = access
        self._path = path
        self._role = role
        self._filters = dict(filters)
        self._parts = parts
        self._durable = durable
        self._marking = threading.Lock()  # guards the order of marks and commits
        self._is_shared = False
        self._is_closed = False

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._path.rpartition("/")[2]

    @property
    def location(self) -> str:
        """The file and the group in it."""
        return location_in(self._access, self._path)

    def manifest(self) -> dict[str, Json]:
        """What its creator wrote about it."""
        with self._access.reading() as opened:
            return read_manifest(self._group(opened), location=self.location)

    def set_manifest(self, manifest: Mapping[str, Json]) -> None:
        """Replace the manifest in one step."""
        self._may_own()
        with self._access.writing() as opened:
            write_manifest(self._group(opened), manifest)
        self._access.commit()

    def names(self) -> list[str]:
        """Of all arrays, sorted."""
        with self._access.reading() as opened:
            return names_in(self._group(opened))

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here."""
        with self._access.reading() as opened:
            array = self._array(opened, name)
            return array.spec(array.dataset.shape)

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values."""
        self._may_own()
        check_array_name(spec.name)
        with self._access.writing() as opened:
            group = self._group(opened)
            make_result_arrays(group, [spec], filters=self._filters, location=self.location)
        self._access.commit()

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Give an array another shape."""
        self._may_own()
        with self._access.writing() as opened:
            dataset = self._array(opened, name).dataset
            old = dataset.shape
            dataset.resize(tuple(map(int, shape)))
            fit_dims(dataset, old, dataset.shape)
        self._access.commit()

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put whole chunks."""
        self._may_own()
        values = np.asarray(values)
        with self._access.writing() as opened:
            array = self._array(opened, name)
            check_write(array, start, values)
            shape = array.dataset.shape
            stop = map(operator.add, start, values.shape)
            if any(map(operator.gt, stop, shape)):
                raise MismatchError(
                    f"{name!r} in {self.location} has shape {shape}, so values of shape "
                    f"{values.shape} cannot be put at {tuple(start)}. Resize it first."
                )
            array.write(start, to_stored(values), log=None)

    def read(self, name: str, region: Region = (), *, is_strict: bool = False) -> Array:
        """Copy out a region."""
        with self._access.reading() as opened:
            array = self._array(opened, name)
            part = bounded(region, array.dataset.shape, name=name)
            return array.read(part, is_strict=is_strict)

    def damage(self, name: str, region: Region) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        with self._access.reading() as opened:
            array = self._array(opened, name)
            # Listed before the first is given, so that no lock waits for whoever looks at them.
            found = list(array.damage(bounded(region, array.dataset.shape, name=name)))
        yield from found

    def marks(self) -> Marks:
        """One per unit; of members only what is joined."""
        with self._access.reading() as opened:
            return read_marks(self._group(opened), location=self.location)

    def mark(self, units: Sequence[int], value: int) -> None:
        """Mark units, and commit them with their chunks."""
        self._may_own()
        with self._marking:
            with self._access.writing() as opened:
                put_marks(self._group(opened), units, value, writer=OWNER)
            self._access.commit()

    def set_marks(self, marks: Marks) -> None:
        """Replace the marks of all writers in one step."""
        self._may_own()
        with self._marking:
            with self._access.writing() as opened:
                replace_marks(self._group(opened), marks, writer=OWNER)
            self._access.commit()

    def share(self) -> None:
        """Commit, let go of the file, and let members write parts of it.

        Raises:
            BusyError: For readers; or the file was opened by its user.
        """
        self._may_own()
        path = self._access.path
        if path is None:
            raise BusyError(
                f"{self.location} was opened by its user, so no other process can write to it. "
                "Give the path of the file instead of the open file."
            )
        with self._access.writing() as opened:
            group = self._group(opened)
            layouts = [Layout.of(self._array(opened, name)) for name in names_in(group)]
            n_units = len(read_marks(group, location=self.location))
        self._access.commit()
        if self._parts is None:
            self._parts = Parts.new(parts_folder(path, self._path))
        self._parts.describe(layouts, n_units=n_units)
        self._access.close()
        self._is_shared = True

    def join(self, regions: Regions) -> None:
        """Copy what members marked into the file, and remove what they wrote it to."""
        check_may(self._role, "owner", location=self.location)
        if self._is_shared:
            path = self._access.path
            assert path is not None
            self._access = WriterAccess(path, claim=self._path, durable=self._durable)
            self._is_shared = False
        if self._parts is None:
            return
        with self._marking, self._parts.taken():
            for path in self._parts.paths():
                with Part(path) as part:
                    self._join(part, regions)
                    part.remove()
            self._parts.remove()
        self._parts.free()
        self._parts = None

    def keep(self) -> None:
        """Nothing to do: the lock of the file, or of the folder of parts, tells who lives."""

    def close(self) -> None:
        """Let go."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._access.close()
        finally:
            if self._parts is not None:
                self._parts.free()

    def _join(self, part: Part, regions: Regions) -> None:
        """Copy what one member marked; commits now and then, so that the journal stays small."""
        told = part.marks()
        n_bytes = 0
        for unit in np.flatnonzero(told).tolist():
            value = int(told[unit])
            with self._access.writing() as opened:
                group = self._group(opened)
                if read_marks(group, location=self.location)[unit] == DONE:
                    continue
                if (chunks := part.chunks(unit, value, regions)) is None:
                    continue
                for name, origin, skipped, data in chunks:
                    put_chunk(self._array(opened, name), origin, skipped, data)
                    n_bytes += len(data)
                put_marks(group, [unit], value, writer=OWNER)
            if n_bytes > _JOINED_BYTES:
                self._access.commit()
                n_bytes = 0
        self._access.commit()

    def _may_own(self) -> None:
        check_may(self._role, "owner", location=self.location)
        if self._is_shared:
            raise BusyError(
                f"{self.location} is shared: its members write. Call `join` when they are done."
            )

    def _group(self, opened: Opened) -> h5py.Group:
        return opened.root[self._path]

    def _array(self, opened: Opened, name: str) -> StoredArray:
        return opened.array(name, location=self.location, group=self._path)


def location_in(access: Access, path: str) -> str:
    """Where a group of a file, or of a user's group, lies: "data.h5:/raw-peak_000"."""
    start, colon, above = access.location.rpartition(":/")
    is_group = access.path is None and colon
    return f"{start}:/{above}/{path}" if is_group else f"{access.location}:/{path}"
