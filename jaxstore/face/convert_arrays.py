"""Arrays, labels and attributes from one store into another, in pieces of bounded size.

Owned here: the copy of what is the same in every format. Which rows of an array count is told by
whoever asks for the copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.face.convert_tally import Tally
from jaxstore.stores.base import ArraySpec, Json, Store, groups_above
from jaxstore.stores.dtypes import stored_dtype
from jaxstore.stores.geometry import chunk_regions
from jaxstore.stores.results import RESULT, ResultGroup

PIECE_BYTES = 32 * 2**20  # that are in memory at once, or one chunk
MOST_CHUNK_BYTES = 64 * 2**20  # of an array that another program left in larger pieces, or in one

Array = np.ndarray[Any, Any]
Region = tuple[slice, ...]
Read = Callable[[Region], Array]


@dataclass(frozen=True, slots=True)
class Copy:
    """One array to be made, and where its values come from."""

    spec: ArraySpec  # as it shall lie in the target
    read: Read  # a region of the source; what counts of it is there, or an error
    regions: tuple[Region, ...]  # to copy; each begins a chunk

    @property
    def n_bytes(self) -> int:
        """Of the regions, decoded."""
        extents = ([cut.stop - cut.start for cut in region] for region in self.regions)
        return sum(map(math.prod, extents)) * self.spec.dtype.itemsize


def whole(spec: ArraySpec, read: Read) -> Copy:
    """The copy of all of an array."""
    return Copy(spec, read, (tuple(slice(0, n) for n in spec.shape),))


def whole_of(store: Store, name: str, *, chunk_rows: int | None, is_own: bool) -> Copy:
    """The copy of all of an array of a store; of `is_own` coordinates no chunk may be absent.

    Raises:
        FormatError: It is damaged, or of a dtype that stores do not take, such as text.
    """
    try:
        spec = fit_chunks(store.spec(name), chunk_rows=chunk_rows)
        stored_dtype(spec.dtype)
    except FormatError as error:
        raise FormatError(f"{name!r} in {store.location} cannot be converted: {error}") from error
    return whole(spec, reader(store, name, is_strict=is_own and is_coordinate(spec)))


def reader(store: Store | ResultGroup, name: str, *, is_strict: bool) -> Read:
    """Reads regions of an array; with `is_strict` none of its chunks may be absent."""
    return lambda region: store.read(name, region, is_strict=is_strict)


def fit_chunks(spec: ArraySpec, *, chunk_rows: int | None) -> ArraySpec:
    """The same array in chunks of so many rows; without a wish, in its own if they are not huge.

    >>> fit_chunks(ArraySpec("x", (2**30, 2), (2**30, 2), np.dtype("f8"), ("a", "b")),
    ...            chunk_rows=None).chunks
    (4194304, 2)
    """
    if not spec.shape:
        return spec
    chunks = list(spec.chunks)
    if chunk_rows is not None:
        chunks[0] = chunk_rows
    for axis in range(len(chunks)):
        n_bytes = math.prod(chunks) * spec.dtype.itemsize
        chunks[axis] = max(1, chunks[axis] // max(1, -(-n_bytes // MOST_CHUNK_BYTES)))
    return replace(spec, chunks=tuple(chunks))


def pieces(region: Region, spec: ArraySpec) -> Iterator[Region]:
    """A region in pieces of whole chunks, counted from its corner, that fit into memory.

    >>> spec = ArraySpec("x", (10, 3), (4, 3), np.dtype("f8"), ("a", "b"))
    >>> list(pieces((slice(0, 10), slice(0, 3)), spec))
    [(slice(0, 10, None), slice(0, 3, None))]
    """
    extent = [cut.stop - cut.start for cut in region]
    steps = [min(c, max(n, 1)) for c, n in zip(spec.chunks, extent, strict=True)]
    for axis in reversed(range(len(steps))):
        n_fitting = PIECE_BYTES // (math.prod(steps) * spec.dtype.itemsize)
        steps[axis] = min(max(extent[axis], 1), spec.chunks[axis] * max(1, n_fitting))
    for part in chunk_regions([0] * len(extent), extent, steps):
        yield tuple(
            slice(cut.start + piece.start, cut.start + piece.stop)
            for cut, piece in zip(region, part.in_values, strict=True)
        )


def copy_regions(
    copy: Copy, write: Callable[[str, Sequence[int], Array], None], tally: Tally
) -> None:
    """Copy the values of an array that is there already.

    Raises:
        FormatError: The source has less than its record tells of, or it is damaged.
    """
    for region in copy.regions:
        for part in pieces(region, copy.spec):
            values = copy.read(part)
            extent = tuple(cut.stop - cut.start for cut in part)
            if values.shape != extent or values.dtype != copy.spec.dtype:
                raise FormatError(
                    f"{copy.spec.name!r}: {extent} {copy.spec.dtype} are wanted of it, the source "
                    f"has {values.shape} {values.dtype}. See what is damaged with jaxstore verify."
                )
            write(copy.spec.name, [cut.start for cut in part], np.asarray(values, order="C"))
            tally.add(values.nbytes)


def copy_arrays(target: Store, copies: Iterable[Copy], tally: Tally) -> None:
    """Make arrays in a store and fill them; those that are coordinates first."""
    for copy in sorted(copies, key=lambda copy: not is_coordinate(copy.spec)):
        target.create(copy.spec)
        copy_regions(copy, target.write, tally)
        tally.n_arrays += 1


def is_coordinate(spec: ArraySpec) -> bool:
    """Whether an array tells the values along the dimension of its own name."""
    return spec.dims == (spec.name.rpartition("/")[2],)


def copy_labels(source: Store, target: Store, names: Iterable[str]) -> None:
    """Copy coordinates of strings with their attributes."""
    for name in names:
        target.create_labels(name, source.labels(name) or [])
        if attrs := source.attrs(name):
            target.set_attrs(attrs, name)


def copy_groups(source: Store, target: Store, names: Iterable[str]) -> None:
    """Copy the attributes of all groups that hold these arrays; those of the root come last."""
    for group in sorted({group for name in names for group in groups_above(name)}):
        if attrs := source.attrs(group):
            check_no_result(attrs, group, location=source.location)
            target.set_attrs(attrs, group)


def check_no_result(attrs: Mapping[str, Json], group: str, *, location: str) -> None:
    """Refuse the group of a result whose manifest cannot be read, else it would lose its marks.

    Raises:
        FormatError: It is one.
    """
    if RESULT in attrs:
        raise FormatError(
            f"{group or 'the root'!r} in {location} is a result that cannot be copied by itself, "
            "or its manifest is damaged. Convert the place that holds it; jaxstore info shows it."
        )
