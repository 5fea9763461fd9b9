"""Results in an HDF5 file, often the very one that holds their source.

Owned here: the results of a place, how one is made, found and opened. A kill at any moment costs
neither what else is in the file nor what is marked: see `hdf5_journal`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from os import PathLike
from pathlib import Path

import h5py

from jaxstore.errors import BusyError, JaxstoreError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.hdf5_codec import filter_options
from jaxstore.stores.hdf5_names import find_item, free_place, items_below
from jaxstore.stores.hdf5_opened import Opened
from jaxstore.stores.results import RESULT, ResultGroup, Role
from jaxstore.stores.results_hdf5_file import Access, ReaderAccess, UserAccess, WriterAccess
from jaxstore.stores.results_hdf5_group import OWNER, HDF5Result, location_in
from jaxstore.stores.results_hdf5_layout import (
    make_marks,
    make_result_arrays,
    read_manifest,
    storable,
    write_manifest,
)
from jaxstore.stores.results_hdf5_member import HDF5Member
from jaxstore.stores.results_hdf5_parts import Parts, is_shared, parts_folder
from jaxstore.stores.results_roles import check_result_name, check_role, no_result


class HDF5Results:
    """A place of results in an HDF5 file.

    Args:
        where: Path of a file, which need not be there; or a file or group of h5py that its user
            has opened. Through the user's own handle there is no journal: HDF5 writes as it does
            for any program, so a kill in the midst of it can damage the file.
        group: In it.
        compression: Of new results: "zstd", "lz4" or None.
        checksum: Whether their chunks carry a checksum.
        durable: Whether what is marked outlives a power loss.

    Raises:
        FormatError: There is no such compression.
        ValueError: `durable` of a user's file that is no plain file on a disk.
    """

    def __init__(
        self,
        where: str | PathLike[str] | h5py.Group,
        *,
        group: str = "",
        compression: str | None = "zstd",
        checksum: bool = True,
        durable: bool = False,
    ) -> None:
        self._where = where if isinstance(where, h5py.Group) else Path(where)
        self._group = group.strip("/")
        self._filters = filter_options(compression, checksum=checksum)
        self._durable = durable
        if isinstance(self._where, h5py.Group):
            UserAccess(self._where, claim=None, durable=durable)

    @property
    def location(self) -> str:
        """Of the file, and of the group in it."""
        if isinstance(self._where, Path):
            return f"{self._where}:/{self._group}" if self._group else str(self._where)
        access = UserAccess(self._where, claim=None, durable=False)
        return location_in(access, self._group) if self._group else access.location

    @property
    def address(self) -> str | None:
        """Of the file on its disk, None if its user opened it."""
        if not isinstance(self._where, Path):
            return None
        path = str(self._where.absolute())
        return f"{path}:/{self._group}" if self._group else path

    def manifests(self) -> Iterator[tuple[str, dict[str, Json]]]:
        """Names and manifests of all results in it, in order of names."""
        access = self._access("reader", claim="")
        if access is None:
            return
        try:
            with access.reading() as opened:
                # Listed before the first is given, so that the file is not locked meanwhile.
                found = [
                    (name, read_manifest(group, location=location_in(access, self._path(name))))
                    for name, group in self._results_in(opened)
                ]
        finally:
            access.close()
        yield from found

    def groups(self) -> list[str]:
        """Groups below it in which results lie, outer ones first."""
        access = self._access("reader", claim="")
        if access is None:
            return []
        try:
            with access.reading() as opened:
                place = find_item(opened.root, self._group, location=self.location)
                return _groups_of_results(place) if isinstance(place, h5py.Group) else []
        finally:
            access.close()

    def within(self, group: str) -> HDF5Results:
        """A group below it as a place, with the same settings."""
        found = copy(self)
        found._group = self._path(group.strip("/"))
        return found

    def create(
        self, name: str, *, manifest: Mapping[str, Json], specs: Sequence[ArraySpec], n_units: int
    ) -> HDF5Result:
        """Make a result with all marks TODO, in one step."""
        check_result_name(name)
        storable(specs)
        path = self._path(name)
        access: Access
        if isinstance(self._where, Path):
            access = WriterAccess.create(self._where, claim=path, durable=self._durable)
        else:
            access = UserAccess(self._where, claim=path, durable=self._durable)
        try:
            location = location_in(access, path)
            with access.writing() as opened:
                parent, leaf = free_place(opened.root, path, location=access.location)
                made = parent.create_group(leaf)
                try:
                    make_result_arrays(made, specs, filters=self._filters, location=location)
                    make_marks(made, n_units, writer=OWNER)
                    write_manifest(made, manifest)
                except JaxstoreError:
                    del parent[leaf]
                    raise
            access.commit()
            return self._result(access, path, role="owner")
        except BaseException:
            access.close()
            raise

    def open(self, name: str, *, role: Role = "reader", writer: str = "") -> ResultGroup:
        """Open a result."""
        check_result_name(name)
        check_role(role, writer)
        path = self._path(name)
        access = self._access("owner" if role == "owner" else "reader", claim=path)
        if access is None:
            raise no_result(name, [], location=self.location)
        try:
            # Of a file that this process reads too, HDF5 would show a member what was there before.
            if role != "member" or not self._is_shared(path):
                self._check_there(access, name)
            if role != "member":
                return self._result(access, path, role=role)
            result = self._result(access, path, role="reader")
            if not isinstance(self._where, Path):
                raise BusyError(f"{result.location} was opened by its user, and is not shared.")
            return HDF5Member(result, self._where, path, writer=writer, durable=self._durable)
        except BaseException:
            access.close()
            raise

    def _path(self, name: str) -> str:
        return f"{self._group}/{name}" if self._group else name

    def _is_shared(self, path: str) -> bool:
        return isinstance(self._where, Path) and is_shared(parts_folder(self._where, path))

    def _access(self, role: Role, *, claim: str) -> Access | None:
        """Access to the file, None if it is not there."""
        if not isinstance(self._where, Path):
            return UserAccess(
                self._where, claim=claim if role == "owner" else None, durable=self._durable
            )
        if not self._where.exists():
            return None
        if role == "owner":
            return WriterAccess(self._where, claim=claim, durable=self._durable)
        return ReaderAccess(self._where)

    def _result(self, access: Access, path: str, *, role: Role) -> HDF5Result:
        parts = None
        if role == "owner" and isinstance(self._where, Path):
            parts = Parts.left(parts_folder(self._where, path))
        return HDF5Result(
            access, path, role=role, filters=self._filters, parts=parts, durable=self._durable
        )

    def _check_there(self, access: Access, name: str) -> None:
        with access.reading() as opened:
            item = find_item(opened.root, self._path(name), location=access.location)
            if _is_result(item):
                return
            names = [name for name, _ in self._results_in(opened)]
        raise no_result(name, names, location=self.location)

    def _results_in(self, opened: Opened) -> list[tuple[str, h5py.Group]]:
        place = find_item(opened.root, self._group, location=self.location)
        if not isinstance(place, h5py.Group):
            return []
        items = (
            (name, place[name])
            for name in sorted(place)
            if isinstance(place.get(name, getlink=True), h5py.HardLink)
        )
        return [(name, item) for name, item in items if _is_result(item)]


def _is_result(item: object) -> bool:
    return isinstance(item, h5py.Group) and RESULT in item.attrs


def _groups_of_results(place: h5py.Group) -> list[str]:
    found = [path for path, item in items_below(place) if _is_result(item)]
    inside = tuple(f"{path}/" for path in found)
    return sorted({path.rpartition("/")[0] for path in found if not path.startswith(inside)} - {""})
