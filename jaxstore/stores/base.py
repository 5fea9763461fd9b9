"""The Store protocol: named, chunked, growing arrays, and one small record that says what counts.

Owned here: the contract in words, and `ArraySpec`. Which bytes represent a dtype is `dtypes`;
which chunks a region touches is `geometry`; each format has a file of its own.

The order in which a writer calls a store is always: `write`, then `resize`, then `commit`.
A kill between any two of them leaves the last committed state readable.
"""

from __future__ import annotations

from collections.abc import Buffer, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

Json = Any  # what json.dumps takes


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """How one array lies in a store."""

    name: str  # path below the root of the store, "samples/theta"
    shape: tuple[int, ...]
    chunks: tuple[int, ...]  # the last chunk along an axis may be short
    dtype: np.dtype[Any]  # what callers write and read; any JAX dtype but typed keys
    dims: tuple[str, ...]  # a name per axis
    attrs: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.chunks) == len(self.dims):
            raise ValueError(
                f"{self.name!r}: shape {self.shape}, chunks {self.chunks} and dims {self.dims} "
                "must have one entry per axis"
            )
        if min(self.chunks, default=1) < 1:
            raise ValueError(f"{self.name!r}: chunks must be >= 1, got {self.chunks}")


@runtime_checkable
class Store(Protocol):
    """Named arrays in groups, each group and array with attributes, under one root.

    Names are paths of plain parts joined by "/"; `names.encode_key` makes any key a plain part.
    One writer at a time; reads may run beside it.
    """

    @property
    def location(self) -> str:
        """Where this is, for messages: a path or URL, never with credentials."""
        ...

    @property
    def replaces_chunks(self) -> bool:
        """Whether a chunk that is written again is, at any moment, the old or the new one."""
        ...

    @property
    def lease_s(self) -> float | None:
        """Seconds within which a living writer must commit, or be taken for dead by others.

        None where the operating system's lock tells who lives, or commits conflict.
        """
        ...

    @property
    def keeps_commits(self) -> bool:
        """Whether each commit stays readable by itself, so that few are to be made."""
        ...

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values (NaN where the dtype has one, else zero), and its groups.

        Raises:
            ExistsError: The name is taken.
        """
        ...

    def names(self, *, with_labels: bool = False) -> list[str]:
        """Names of all arrays below the root, sorted; if asked, with those that `labels` reads."""
        ...

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here, with its present shape.

        Raises:
            MissingError: There is no such array; the message lists those there are.
        """
        ...

    def write(self, name: str, start: Sequence[int], values: np.ndarray[Any, Any]) -> None:
        """Put `values` at offset `start`; whole chunks are written once and never read back.

        May reach beyond the shape: such rows count only once `resize` covers them. Where a
        region covers a chunk in part, the rest of that chunk is kept.
        """
        ...

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Publish a new shape; growing never loses what `write` put beyond the old one."""
        ...

    def read(
        self, name: str, region: tuple[slice, ...] = (), *, is_strict: bool = False
    ) -> np.ndarray[Any, Any]:
        """Copy out a region, half-open slices of step one; absent trailing axes are whole.

        Args:
            name: Of an array.
            region: What of it.
            is_strict: Whether all of the region was written, so that a chunk which is absent was
                lost; else it reads as fill values.

        Raises:
            TooLargeError: The region is more than this machine has memory.
        """
        ...

    def attrs(self, name: str = "") -> dict[str, Json]:
        """Attributes of the root, of a group, or of an array; {} if it has none.

        Raises:
            MissingError: There is no such group or array.
        """
        ...

    def set_attrs(self, attrs: Mapping[str, Json], name: str = "") -> None:
        """Add or replace attributes of the root, of a group (made if absent), or of an array."""
        ...

    def commit(self, record: Mapping[str, Json]) -> None:
        """Replace the record that says what counts, atomically, after everything before it."""
        ...

    def committed(self) -> dict[str, Json] | None:
        """The record as last committed, None if there never was one."""
        ...

    def put_blob(self, name: str, key: str, parts: Sequence[Buffer]) -> None:
        """Keep bytes under a key of an array, replaced in one step.

        They are no part of the array, and foreign readers do not see them.

        Args:
            name: Of an array, the same one for `get_blob`.
            key: Such as "checkpoint-0": lower case, digits and hyphens.
            parts: Joined to what `get_blob` returns.

        Raises:
            MissingError: There is no such array.
        """
        ...

    def get_blob(self, name: str, key: str) -> bytes | None:
        """The bytes under a key of an array, None if there are none."""
        ...

    def delete_blob(self, name: str, key: str) -> None:
        """Remove the bytes under a key of an array, if there are any."""
        ...

    def damage(self, name: str, region: tuple[slice, ...]) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region; reads all of them.

        Every text names the chunk: "chunk (0, 3) is absent".
        """
        ...

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Make a coordinate of strings: one dimension, called like the last part of `name`.

        Raises:
            ExistsError: The name is taken.
        """
        ...

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate that `create_labels` made, None where there are none."""
        ...

    def seal(self) -> None:
        """Nothing more will be written for now: make the store plain for foreign readers."""
        ...

    def reader(self) -> Store:
        """A store for reading the same data, which outlives this one where the data does."""
        ...

    def close(self) -> None:
        """Let go of handles. The store may be used no more; what is committed stays."""
        ...


def groups_above(name: str) -> list[str]:
    """Groups that hold an array, the outermost first, without the root.

    >>> groups_above("a/b/x")
    ['a', 'a/b']
    """
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
