"""Where results lie: groups of arrays that one or several processes fill, unit by unit.

Owned here: the contract in words, for every format. A result is a group of its own inside a place:
arrays, one manifest, and one mark per unit. Which arrays there are and what a unit is, is the
caller's; `results_zarr`, `results_hdf5` and `results_memory` keep the contract.

The order in which a writer calls is always: `write` all chunks of a unit, then `mark` it. A kill
between the two repeats the unit; a unit that is marked is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import UInt8

from jaxstore.stores.base import ArraySpec, Json

Array = np.ndarray[Any, Any]
Marks = UInt8[np.ndarray, " units"]
Region = tuple[slice, ...]
Regions = Callable[[int], Iterable[tuple[str, Region]]]  # unit -> the chunks that make it up

TODO, DONE, FAILED = 0, 1, 2  # what a mark says; of two writers' marks DONE counts before FAILED

RESULT = "jaxstore_result"  # attribute with the manifest, which makes a group a result; text

Role = Literal["reader", "owner", "member"]


class ResultGroup(Protocol):
    """One result. Every method may be called from several threads at once.

    Roles: the owner creates, resizes, joins, and keeps other owners out; members are processes
    that it lets write beside it, each with marks of its own; readers write nothing.
    """

    @property
    def name(self) -> str:
        """In its place: "raw-peak_000"."""
        ...

    @property
    def location(self) -> str:
        """Where it is, for messages and for `open`: never with credentials."""
        ...

    def manifest(self) -> dict[str, Json]:
        """What its creator wrote about it."""
        ...

    def set_manifest(self, manifest: Mapping[str, Json]) -> None:
        """Replace the manifest in one step; for the owner."""
        ...

    def names(self) -> list[str]:
        """Of all arrays, sorted; those of marks apart."""
        ...

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here.

        Raises:
            MissingError: There is no such array; the message lists those there are.
        """
        ...

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values; for the owner.

        Raises:
            ExistsError: The name is taken.
        """
        ...

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Give an array another shape; for the owner, while nobody writes."""
        ...

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put whole chunks; for the owner and members. Two writers never share a chunk.

        Raises:
            BusyError: For readers, and where another owner took over.
        """
        ...

    def read(self, name: str, region: Region = (), *, is_strict: bool = False) -> Array:
        """Copy out a region, as `Store.read`; what members wrote only once it is joined."""
        ...

    def damage(self, name: str, region: Region) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region, as `Store.damage`."""
        ...

    def marks(self) -> Marks:
        """One per unit, of all writers together, as far as `read` shows what they wrote."""
        ...

    def mark(self, units: Sequence[int], value: int) -> None:
        """Mark units whose chunks this writer has written; from here on they survive a kill."""
        ...

    def set_marks(self, marks: Marks) -> None:
        """Replace the marks of all writers in one step; for the owner, while nobody else writes.

        There may be more of them than before.
        """
        ...

    def share(self) -> None:
        """From here on members write; the owner keeps other owners out, and reads nothing."""
        ...

    def join(self, regions: Regions) -> None:
        """Make what members marked part of the result; for the owner, after they closed.

        Also what members of an owner that was killed left behind. A chunk that is damaged is not
        taken, and its unit stays to do.
        """
        ...

    def keep(self) -> None:
        """Tell other owners that this one lives; to be called at least every few seconds.

        Raises:
            BusyError: Another took over.
        """
        ...

    def close(self) -> None:
        """Let go. What was marked stays."""
        ...


class ResultPlace(Protocol):
    """A group of a store that results lie in, beside whatever else is there."""

    @property
    def location(self) -> str:
        """Where it is: "results.zarr", "data.h5:/measurement"; never with credentials."""
        ...

    @property
    def address(self) -> str | None:
        """The same for `results_at` in another process, in any folder; None where there is none."""
        ...

    def manifests(self) -> Iterator[tuple[str, dict[str, Json]]]:
        """Names and manifests of all results in it, in order of names; writes nothing.

        What a killed creator left half made is no result. A place that is not there has none.
        """
        ...

    def groups(self) -> list[str]:
        """Groups below it in which results lie, outer ones first: "day1/fits"; writes nothing.

        Plain groups are looked into, not results. A place that is not there has none.
        """
        ...

    def within(self, group: str) -> ResultPlace:
        """A group below it as a place, with the same settings.

        Raises:
            TypeError: In memory, where there are no groups.
        """
        ...

    def create(
        self, name: str, *, manifest: Mapping[str, Json], specs: Sequence[ArraySpec], n_units: int
    ) -> ResultGroup:
        """Make a result with all marks TODO, whole or not at all; its owner is the caller.

        The place is made too if it is not there. Nothing else in it is touched.

        Raises:
            ExistsError: The name is taken, by whatever; nothing was changed.
            BusyError: Another process writes the file.
        """
        ...

    def open(self, name: str, *, role: Role = "reader", writer: str = "") -> ResultGroup:
        """Open a result.

        Args:
            name: Of the result.
            role: Of this process.
            writer: A name for a member, letters, digits and hyphens; no two members share it.

        Raises:
            MissingError: There is no such result; the message lists those there are.
            BusyError: It has an owner, and another is asked for.
            FormatError: It is damaged.
        """
        ...
