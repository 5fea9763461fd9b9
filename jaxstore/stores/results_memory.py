"""Results in host memory, which end with their process.

Owned here: the contract of `results` over plain arrays. Members are threads of the process.
"""

from __future__ import annotations

import json
import math
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from jaxstore.errors import BusyError, ExistsError, MissingError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import fill_value, from_stored, same_dtype, stored_dtype, to_stored
from jaxstore.stores.limits import check_memory
from jaxstore.stores.results import Array, Marks, Region, Regions, Role
from jaxstore.stores.results_roles import (
    check_array_name,
    check_may,
    check_result_name,
    check_role,
    combine_marks,
    no_result,
)


@dataclass(slots=True, weakref_slot=True)
class _Result:
    """What all that have one result open share."""

    manifest: str  # JSON, so that what is handed out is a copy
    marks: dict[str, Marks]  # by writer
    specs: dict[str, ArraySpec] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)  # stored bits
    n_owners: int = 0  # that it has had; the last may still be there
    owner: weakref.ref[MemoryResult] | None = None  # an owner nobody holds any more is gone
    lock: threading.Lock = field(default_factory=threading.Lock)  # guards marks


class MemoryResults:
    """Results of this process; other processes do not see them.

    >>> place = MemoryResults()
    >>> spec = ArraySpec("amp", (4,), (2,), np.dtype("float32"), ("item",))
    >>> result = place.create("raw-peak_000", manifest={}, specs=[spec], n_units=2)
    >>> result.write("amp", (2,), np.ones(2, "float32"))
    >>> result.mark([1], 1)
    >>> result.marks().tolist(), result.read("amp").tolist()
    ([0, 1], [nan, nan, 1.0, 1.0])
    """

    location = "memory"
    address = None

    def __init__(self) -> None:
        self._results: dict[str, _Result] = {}
        self._lock = threading.Lock()  # guards which results there are, and who owns them

    def manifests(self) -> Iterator[tuple[str, dict[str, Json]]]:
        """Names and manifests of all results, in order of names."""
        for name, result in sorted(self._results.items()):
            yield name, json.loads(result.manifest)

    def groups(self) -> list[str]:
        """None: it has no groups."""
        return []

    def within(self, group: str) -> MemoryResults:
        """Nothing: it has no groups."""
        raise TypeError(f"memory is a place without groups. Leave out group={group!r}.")

    def create(
        self, name: str, *, manifest: Mapping[str, Json], specs: Sequence[ArraySpec], n_units: int
    ) -> MemoryResult:
        """Make a result with all marks TODO; its owner is the caller."""
        check_result_name(name)
        result = _Result(json.dumps(dict(manifest)), {"": np.zeros(n_units, np.uint8)})
        for spec in specs:
            _add(result, spec, location=f"memory/{name}")
        with self._lock:
            if name in self._results:
                raise ExistsError(f"{name!r} in memory is taken. Choose another name.")
            self._results[name] = result
            return MemoryResult(result, name, "owner", "")

    def open(self, name: str, *, role: Role = "reader", writer: str = "") -> MemoryResult:
        """Open a result."""
        check_role(role, writer)
        with self._lock:
            if name not in self._results:
                raise no_result(name, self._results, location=self.location)
            return MemoryResult(self._results[name], name, role, writer)


class MemoryResult:
    """One result in memory, as one of those who have it open."""

    def __init__(self, result: _Result, name: str, role: Role, writer: str) -> None:
        self.name = name
        self.location = f"memory/{name}"
        self._result = result
        self._role: Role = role
        self._writer = writer
        if role == "owner":
            if result.owner is not None and result.owner() is not None:
                raise BusyError(
                    f"{self.location} has an owner in this process. Close that one first."
                )
            result.owner = weakref.ref(self)
            result.n_owners += 1
        self._opened_under = result.n_owners

    def manifest(self) -> dict[str, Json]:
        """What its creator wrote about it."""
        found: dict[str, Json] = json.loads(self._result.manifest)
        return found

    def set_manifest(self, manifest: Mapping[str, Json]) -> None:
        """Replace the manifest."""
        self._check("owner")
        self._result.manifest = json.dumps(dict(manifest))

    def names(self) -> list[str]:
        """Of all arrays, sorted."""
        return sorted(self._result.specs)

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here."""
        self._find(name)
        return self._result.specs[name]

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values."""
        self._check("owner")
        _add(self._result, spec, location=self.location)

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Give an array another shape."""
        self._check("owner")
        before, spec = self._find(name), replace(self.spec(name), shape=tuple(shape))
        array = _blank(spec)
        both = tuple(slice(min(n, m)) for n, m in zip(before.shape, array.shape, strict=True))
        array[both] = before[both]
        self._result.arrays[name], self._result.specs[name] = array, spec

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put whole chunks."""
        self._check("owner", "member")
        array = self._find(name)
        same_dtype(name, values, self._result.specs[name].dtype)
        ends = zip(start, values.shape, strict=True)
        array[tuple(slice(first, first + n) for first, n in ends)] = to_stored(values)

    def read(self, name: str, region: Region = (), *, is_strict: bool = False) -> Array:
        """Copy out a region; memory loses nothing, so strict or not is the same."""
        stored = self._find(name)[region].copy()
        return from_stored(stored, self._result.specs[name].dtype)

    def damage(self, name: str, region: Region) -> Iterator[str]:
        """Nothing: there are no chunks that could be damaged."""
        self._find(name)
        yield from ()

    def marks(self) -> Marks:
        """One per unit, of all writers together."""
        with self._result.lock:
            return combine_marks(list(self._result.marks.values()))

    def mark(self, units: Sequence[int], value: int) -> None:
        """Mark units whose chunks this writer has written."""
        self._check("owner", "member")
        with self._result.lock:
            n_units = max(map(len, self._result.marks.values()))
            mine = self._result.marks.setdefault(self._writer, np.zeros(n_units, np.uint8))
            mine[list(units)] = value

    def set_marks(self, marks: Marks) -> None:
        """Replace the marks of all writers."""
        self._check("owner")
        with self._result.lock:
            self._result.marks = {"": np.array(marks, np.uint8)}

    def share(self) -> None:
        """Nothing to do: members write into the same arrays."""
        self._check("owner")

    def join(self, regions: Regions) -> None:
        """Nothing to do: what members wrote is in the same arrays."""
        self._check("owner")

    def keep(self) -> None:
        """Nothing to do: an owner of this process that is gone is known to be."""

    def close(self) -> None:
        """Let go."""
        if self._role == "owner" and self._result.n_owners == self._opened_under:
            self._result.owner = None
        self._role = "reader"

    def _check(self, *roles: Role) -> None:
        check_may(self._role, *roles, location=self.location)
        if self._result.n_owners != self._opened_under:
            raise BusyError(f"{self.location} was taken over by another owner. Open it again.")

    def _find(self, name: str) -> Array:
        if name not in self._result.arrays:
            raise MissingError(f"no {name!r} in {self.location}. There are {self.names()}.")
        return self._result.arrays[name]


def _add(result: _Result, spec: ArraySpec, *, location: str) -> None:
    check_array_name(spec.name)
    above = [spec.name[:at] for at, char in enumerate(spec.name) if char == "/"]
    if any(name in result.arrays for name in (spec.name, *above)) or any(
        name.startswith(f"{spec.name}/") for name in result.arrays
    ):
        raise ExistsError(f"{spec.name!r} in {location} is taken. Choose another name.")
    result.arrays[spec.name], result.specs[spec.name] = _blank(spec), spec


def _blank(spec: ArraySpec) -> Array:
    """Fill values; zeros take no memory before they are written."""
    dtype, fill = stored_dtype(spec.dtype), fill_value(spec.dtype)
    check_memory(math.prod(spec.shape) * dtype.itemsize, f"{spec.name!r} in memory")
    return np.full(spec.shape, fill, dtype) if fill != 0 else np.zeros(spec.shape, dtype)
