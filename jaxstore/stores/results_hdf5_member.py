"""A member of a result in HDF5: it reads the result, and writes into a file of its own.

Owned here: what a member may do. Where its file lies, and how its owner takes what is in it, is
`results_hdf5_parts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.results import Array, Marks, Region, Regions
from jaxstore.stores.results_hdf5_file import WriterAccess
from jaxstore.stores.results_hdf5_group import OWNER, HDF5Result
from jaxstore.stores.results_hdf5_layout import make_marks, make_result_arrays
from jaxstore.stores.results_hdf5_parts import (
    Description,
    part_path,
    parts_folder,
    read_description,
    turn_of,
)
from jaxstore.stores.results_roles import STATUS, check_may


class HDF5Member:
    """A result for a member; made by `HDF5Results`.

    Args:
        result: The same for a reader. It is closed with the member.
        path: Of the file.
        group: Of the result in it.
        writer: The member's name.
        durable: Whether what is marked outlives a power loss.

    Raises:
        BusyError: The owner shares nothing; or another member has this name.
    """

    def __init__(
        self, result: HDF5Result, path: Path, group: str, *, writer: str, durable: bool
    ) -> None:
        self._result = result
        self._folder = parts_folder(path, group)
        described = read_description(self._folder, location=result.location)
        self._turn = described.turn
        with turn_of(self._folder, self._turn, location=result.location):
            access = WriterAccess.create(
                part_path(self._folder, writer), claim="/", durable=durable, tells_epoch=False
            )
            _fill(access, described, location=result.location)
        self._own = HDF5Result(access, "/", role="owner", filters={}, parts=None, durable=durable)

    @property
    def name(self) -> str:
        """Of the result."""
        return self._result.name

    @property
    def location(self) -> str:
        """Of the result."""
        return self._result.location

    def manifest(self) -> dict[str, Json]:
        """What its creator wrote about it."""
        return self._result.manifest()

    def set_manifest(self, manifest: Mapping[str, Json]) -> None:
        """Refuse."""
        self._refuse()

    def names(self) -> list[str]:
        """Of all arrays, sorted."""
        return self._result.names()

    def spec(self, name: str) -> ArraySpec:
        """How an array lies."""
        return self._own.spec(name)

    def create(self, spec: ArraySpec) -> None:
        """Refuse."""
        self._refuse()

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Refuse."""
        self._refuse()

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put whole chunks."""
        with turn_of(self._folder, self._turn, location=self.location):
            self._own.write(name, start, values)

    def read(self, name: str, region: Region = (), *, is_strict: bool = False) -> Array:
        """Copy out a region of what the owner had before it shared."""
        return self._result.read(name, region, is_strict=is_strict)

    def damage(self, name: str, region: Region) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        return self._result.damage(name, region)

    def marks(self) -> Marks:
        """Those that the owner had before it shared."""
        return self._result.marks()

    def mark(self, units: Sequence[int], value: int) -> None:
        """Mark units that this member has written."""
        with turn_of(self._folder, self._turn, location=self.location):
            self._own.mark(units, value)

    def set_marks(self, marks: Marks) -> None:
        """Refuse."""
        self._refuse()

    def share(self) -> None:
        """Refuse."""
        self._refuse()

    def join(self, regions: Regions) -> None:
        """Refuse."""
        self._refuse()

    def keep(self) -> None:
        """See whether another owner took over."""
        with turn_of(self._folder, self._turn, location=self.location):
            pass

    def close(self) -> None:
        """Let go."""
        self._own.close()
        self._result.close()

    def _refuse(self) -> None:
        check_may("member", "owner", location=self.location)


def _fill(access: WriterAccess, described: Description, *, location: str) -> None:
    """Make the arrays in the file of a member, unless it was here before."""
    try:
        with access.writing() as opened:
            if STATUS in opened.root:
                return
            for layout in described.layouts:
                make_result_arrays(
                    opened.root, [layout.spec], filters=layout.options, location=location
                )
            make_marks(opened.root, described.n_units, writer=OWNER)
        access.commit()
    except BaseException:
        access.close()
        raise
