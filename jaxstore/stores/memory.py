"""Arrays in host memory.

Owned here: names, groups, attributes and the record of a store that ends with its process. How an
array grows is `growing`.
"""

from __future__ import annotations

import json
from collections.abc import Buffer, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxstore.errors import ExistsError, MissingError
from jaxstore.stores.base import ArraySpec, Json, groups_above
from jaxstore.stores.blob_keys import check_key
from jaxstore.stores.dtypes import same_dtype, to_stored
from jaxstore.stores.growing import GrowingArray

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class _Stored:
    """An array and its present shape."""

    spec: ArraySpec
    data: GrowingArray  # axis 1 first where there is one: draws are appended; a scalar is a row


class MemoryStore:
    """A store in host memory; `view` hands out arrays without a copy.

    >>> store = MemoryStore()
    >>> spec = ArraySpec("x", (2, 0), (2, 8), np.dtype("float32"), ("chain", "draw"))
    >>> store.create(spec)
    >>> store.write("x", (0, 0), np.ones((2, 3), "float32"))
    >>> store.resize("x", (2, 3))
    >>> store.view("x").sum()
    np.float32(6.0)
    """

    keeps_commits = False

    def __init__(self) -> None:
        self._arrays: dict[str, _Stored] = {}
        self._attrs: dict[str, str] = {"": "{}"}  # JSON, so that what is handed out is a copy
        self._labels: dict[str, tuple[str, ...]] = {}
        self._record: str | None = None
        self._blobs: dict[tuple[str, str], bytes] = {}

    @property
    def location(self) -> str:
        """Always "memory"."""
        return "memory"

    @property
    def replaces_chunks(self) -> bool:
        """Whether a rewritten chunk is, at any moment, the old or the new one: it is."""
        return True

    @property
    def lease_s(self) -> float | None:
        """None: it ends with its writer."""
        return None

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values, and its groups."""
        self._check_free(spec.name)
        data = GrowingArray(_draw_first(spec.shape) or (1,), spec.dtype)
        self._make_groups(spec.name)
        self._attrs[spec.name] = json.dumps(dict(spec.attrs))
        self._arrays[spec.name] = _Stored(replace(spec, attrs={}), data)

    def names(self, *, with_labels: bool = False) -> list[str]:
        """Names of all arrays, sorted."""
        return sorted([*self._arrays, *(self._labels if with_labels else ())])

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here, with its present shape."""
        return replace(self._find(name).spec, attrs=self.attrs(name))

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put values at an offset, beyond the shape too."""
        stored = self._find(name)
        same_dtype(name, values, stored.spec.dtype)
        if values.size:
            bits = np.atleast_1d(_axes_swapped(to_stored(values)))
            stored.data.write(_draw_first(start) or (0,), bits)

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Publish a new shape."""
        stored = self._find(name)
        stored.spec = replace(stored.spec, shape=tuple(shape))

    def read(self, name: str, region: tuple[slice, ...] = (), *, is_strict: bool = False) -> Array:
        """Copy out a region; memory loses nothing, so strict or not is the same."""
        return self.view(name)[region].copy()

    def view(self, name: str) -> Array:
        """The whole present array without a copy, its axes as in the spec.

        It stays valid and keeps its extent when the store grows: growth then goes elsewhere.
        """
        stored = self._find(name)
        shape = stored.spec.shape
        rows = stored.data.rows(_draw_first(shape) or (1,))
        return _axes_swapped(rows) if shape else rows.reshape(())

    def attrs(self, name: str = "") -> dict[str, Json]:
        """Attributes of the root, of a group, or of an array."""
        if name not in self._attrs:
            raise self._missing(name)
        found: dict[str, Json] = json.loads(self._attrs[name])
        return found

    def set_attrs(self, attrs: Mapping[str, Json], name: str = "") -> None:
        """Add or replace attributes; a group is made if absent."""
        merged = json.loads(self._attrs.get(name, "{}")) | dict(attrs)
        text = json.dumps(merged)
        if name not in self._attrs:
            self._check_groups(name)
            self._make_groups(name)
        self._attrs[name] = text

    def commit(self, record: Mapping[str, Json]) -> None:
        """Replace the record that says what counts."""
        self._record = json.dumps(dict(record))

    def committed(self) -> dict[str, Json] | None:
        """The record as last committed."""
        return None if self._record is None else json.loads(self._record)

    def put_blob(self, name: str, key: str, parts: Sequence[Buffer]) -> None:
        """Keep bytes under a key of an array."""
        check_key(key)
        self._find(name)
        self._blobs[name, key] = b"".join(parts)

    def get_blob(self, name: str, key: str) -> bytes | None:
        """The bytes under a key of an array, None if there are none."""
        check_key(key)
        return self._blobs.get((name, key))

    def delete_blob(self, name: str, key: str) -> None:
        """Remove the bytes under a key of an array, if there are any."""
        self._blobs.pop((name, key), None)

    def damage(self, name: str, region: tuple[slice, ...]) -> Iterator[str]:
        """Nothing: there are no chunks that could be damaged."""
        yield from ()

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Make a coordinate of strings."""
        self._check_free(name)
        self._make_groups(name)
        self._labels[name] = tuple(labels)

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate, None where there are none."""
        return list(self._labels[name]) if name in self._labels else None

    def seal(self) -> None:
        """Nothing to do: memory has no foreign readers."""

    def reader(self) -> MemoryStore:
        """This store: its data end with it."""
        return self

    def close(self) -> None:
        """Nothing to do: the arrays go when nobody holds the store."""

    def _find(self, name: str) -> _Stored:
        if name not in self._arrays:
            raise self._missing(name)
        return self._arrays[name]

    def _missing(self, name: str) -> MissingError:
        return MissingError(f"no {name!r} in memory. There are {self.names()}.")

    def _check_free(self, name: str) -> None:
        if name in self._attrs:
            raise ExistsError(f"{name!r} in memory is taken. Choose another name.")
        self._check_groups(name)

    def _check_groups(self, name: str) -> None:
        for group in groups_above(name):
            if group in self._arrays or group in self._labels:
                raise ExistsError(
                    f"{group!r} in memory is an array, so it cannot hold {name!r}. "
                    "Choose another name."
                )

    def _make_groups(self, name: str) -> None:
        for group in [*groups_above(name), name]:
            self._attrs.setdefault(group, "{}")


def _draw_first(extent: Sequence[int]) -> tuple[int, ...]:
    """An extent or offset in the order of axes in memory."""
    return (*extent[1::-1], *extent[2:])


def _axes_swapped(values: Array) -> Array:
    return values.swapaxes(0, 1) if values.ndim >= 2 else values
