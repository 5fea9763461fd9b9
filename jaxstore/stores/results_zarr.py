"""Results in Zarr v3, on a disk or in an object store.

Owned here: the contract of `results` over stores of their own: each result is a `ZarrStore` with
its own root document and its own writer, so that several processes fill different results of one
place, and nothing else in the place is touched. Marks are `results_zarr_marks`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

from jaxstore.errors import BusyError, ExistsError, FormatError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.blobs import Blobs, FileBlobs, blobs_at
from jaxstore.stores.limits import MOST_DOCUMENT_BYTES
from jaxstore.stores.results import RESULT, Array, Marks, Region, Regions, Role
from jaxstore.stores.results_roles import (
    STATUS,
    check_array_name,
    check_may,
    check_result_name,
    check_role,
    no_result,
)
from jaxstore.stores.results_zarr_groups import (
    documents_below,
    groups_of_results,
    manifest_of,
    root_in,
)
from jaxstore.stores.results_zarr_marks import ZarrMarks, remove_all
from jaxstore.stores.urls import is_url
from jaxstore.stores.zarr3 import ZarrStore
from jaxstore.stores.zarr3_checksum import COPIES
from jaxstore.stores.zarr3_documents import DOCUMENT, group_document
from jaxstore.stores.zarr3_hierarchy import check_name
from jaxstore.stores.zarr3_parse import parse_document

_OF_V2 = (".zgroup", ".zarray", ".zmetadata")
_MODES = {"reader": "r", "owner": "r+", "member": "guest"}
_KEPT_IN_LEASE = 6  # so that a lease is renewed in time, however slow the server is once
_log = logging.getLogger("jaxstore")


class ZarrResults:
    """Results in a group of a Zarr v3 store.

    Args:
        where: A path, a URL, an obstore store, a zarr store or a zarr group; made if it is not
            there.
        group: Of it, made too.
        compression: "zstd", "lz4" or None, for all arrays of new results.
        checksum: Whether each chunk carries a crc32c.
        durable: Whether what is marked outlives a power loss.
    """

    def __init__(
        self,
        where: Any,
        *,
        group: str = "",
        compression: str | None = "zstd",
        checksum: bool = True,
        durable: bool = False,
    ) -> None:
        # Of the place, the outermost first.
        self._levels = _levels(blobs_at(where, durable=durable), group)
        self._settings: dict[str, Any] = {"compression": compression, "checksum": checksum}

    @property
    def location(self) -> str:
        """Path or URL, without credentials."""
        return self._place.location

    @property
    def address(self) -> str | None:
        """Path or URL; None of a handle on an object store, which has settings of its own."""
        if isinstance(self._place, FileBlobs):
            return str(self._place.root)
        location = self.location
        return location if is_url(location) and not location.startswith("memory:") else None

    def manifests(self) -> Iterator[tuple[str, dict[str, Json]]]:
        """Names and manifests of all results, in order of names."""
        for name, data in documents_below(self._place):
            location = f"{self.location}/{name}"
            try:
                root = root_in(data, location=location)
                manifest = root and manifest_of(root["attributes"], location=location)
            except FormatError as error:
                _log.warning("a result is left out: %s", error)
                continue
            if manifest is not None:
                yield name, manifest

    def groups(self) -> list[str]:
        """Groups below it in which results lie, outer ones first."""
        return groups_of_results(self._place)

    def within(self, group: str) -> ZarrResults:
        """A group below it as a place, with the same settings."""
        found = copy(self)
        found._levels = [*self._levels[:-1], *_levels(self._place, group)]
        return found

    def create(
        self, name: str, *, manifest: Mapping[str, Json], specs: Sequence[ArraySpec], n_units: int
    ) -> ZarrResult:
        """Make a result with all marks TODO; its owner is the caller."""
        check_result_name(name)
        no_groups = self._no_groups_for(name)
        blobs = self._place.below(name)
        store = ZarrStore.new(blobs, **self._settings)
        try:
            for spec in specs:
                check_array_name(spec.name)
                store.create(spec)
            for level in no_groups:
                level.put_new(DOCUMENT, json.dumps(group_document({})).encode())
                level.sync()
            result = ZarrResult(store, blobs, role="owner", name=name, n_units=n_units)
            result.set_manifest(manifest)
        except BaseException:
            store.close()
            with contextlib.suppress(OSError):
                remove_all(blobs)
            raise
        return result

    def open(self, name: str, *, role: Role = "reader", writer: str = "") -> ZarrResult:
        """Open a result."""
        check_role(role, writer)
        check_result_name(name)
        blobs = self._place.below(name)
        root = root_in(blobs.get(DOCUMENT, MOST_DOCUMENT_BYTES), location=blobs.location)
        if root is None:
            there = [name for name, _ in self.manifests()]
            raise no_result(name, there, location=self.location)
        if role == "member" and COPIES in root:  # an owner drops them first, and then none would
            raise BusyError(
                f"{blobs.location} has no owner to write beside. Open it with role='owner' first."
            )
        store = ZarrStore.open(blobs, mode=_MODES[role], **self._settings)
        try:
            return ZarrResult(store, blobs, role=role, name=name, writer=writer)
        except BaseException:
            store.close()
            raise

    @property
    def _place(self) -> Blobs:
        return self._levels[-1]

    def _no_groups_for(self, name: str) -> list[Blobs]:
        """What has to be made a group, so that a new result lies in groups only.

        Raises:
            FormatError: It is Zarr v2.
            ExistsError: It is an array.
        """
        found: list[Blobs] = []
        for blobs in self._levels:
            data = blobs.get(DOCUMENT, MOST_DOCUMENT_BYTES)
            if data is None:
                if key := next((key for key in _OF_V2 if blobs.get(key) is not None), None):
                    raise FormatError(
                        f"{blobs.location} is Zarr v2: it holds {key!r}. Results are Zarr v3. "
                        "Name another place for them, or convert this one by zarr's `migrate`."
                    )
                found.append(blobs)
                continue
            document = parse_document(data, name="", location=blobs.location)
            if document["node_type"] == "array":
                raise ExistsError(
                    f"{blobs.location} is an array, so it cannot hold the result {name!r}. Name "
                    "another place for results."
                )
            if document.get(COPIES):
                _log.warning(
                    "%s has consolidated metadata, which do not tell of the new result %r. Open "
                    "%s/%s itself, or open without them (`consolidated=False` in xarray, "
                    "`use_consolidated=False` in zarr), or renew them by "
                    "`zarr.consolidate_metadata`.",
                    *(blobs.location, name, self.location, name),
                )
        return found


class ZarrResult:
    """One result in Zarr, as one of those who have it open."""

    def __init__(
        self,
        store: ZarrStore,
        blobs: Blobs,
        *,
        role: Role,
        name: str,
        writer: str = "",
        n_units: int | None = None,
    ) -> None:
        self.name = name
        self._store = store
        self._marks = ZarrMarks(store, blobs, writer=writer or role)
        self._role: Role = role
        self._lock = threading.RLock()  # guards documents, and this writer's marks
        self._kept_at = time.monotonic()  # when others last heard that this owner lives
        if role != "reader":
            # At once: the first array that is made also drops the copies of a sealed result.
            self._marks.begin(len(self._marks.read()) if n_units is None else n_units)

    @property
    def location(self) -> str:
        """Path or URL, without credentials."""
        return self._store.location

    def manifest(self) -> dict[str, Json]:
        """What its creator wrote about it."""
        return manifest_of(self._store.attrs(), location=self.location)

    def set_manifest(self, manifest: Mapping[str, Json]) -> None:
        """Replace the manifest in one step."""
        self._check("owner")
        with self._lock:
            self._store.set_attrs({RESULT: json.dumps(dict(manifest))})

    def names(self) -> list[str]:
        """Of all arrays, sorted; those of marks apart."""
        return [name for name in self._store.names() if name.split("/")[0] != STATUS]

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here."""
        return self._store.spec(name)

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values."""
        self._check("owner")
        check_array_name(spec.name)
        with self._lock:
            self._store.create(spec)

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Give an array another shape."""
        self._check("owner")
        with self._lock:
            self._store.resize(name, shape)

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put whole chunks."""
        self._check("owner", "member")
        self._store.write(name, start, values)

    def read(self, name: str, region: Region = (), *, is_strict: bool = False) -> Array:
        """Copy out a region; chunks of members show as soon as they are written."""
        return self._store.read(name, region, is_strict=is_strict)

    def damage(self, name: str, region: Region) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        return self._store.damage(name, region)

    def marks(self) -> Marks:
        """One per unit, of all writers together."""
        with self._lock:
            return self._marks.read()

    def mark(self, units: Sequence[int], value: int) -> None:
        """Mark units whose chunks this writer has written."""
        self._check("owner", "member")
        with self._lock:
            self._marks.put(units, value)

    def set_marks(self, marks: Marks) -> None:
        """Replace the marks of all writers in one step."""
        self._check("owner")
        with self._lock:
            self._marks.replace(marks)

    def share(self) -> None:
        """Nothing to do: members put chunks and marks of their own, and lock nothing."""
        self._check("owner")

    def join(self, regions: Regions) -> None:
        """Take over the marks of members; their chunks lie in place, each put whole."""
        self._check("owner")
        with self._lock:
            self._marks.replace(self._marks.read())

    def keep(self) -> None:
        """Tell other owners that this one lives; files have a lock that tells it."""
        self._check("owner", "member")
        lease_s = self._store.lease_s
        with self._lock:
            if self._role == "member" or lease_s is None:
                self._store.check()
            elif time.monotonic() - self._kept_at > lease_s / _KEPT_IN_LEASE:
                self._marks.commit()
                self._kept_at = time.monotonic()

    def close(self) -> None:
        """Let go."""
        with self._lock:
            role, self._role = self._role, "reader"
            try:
                if role == "owner":
                    # So that zarr and xarray open it at once; else they look for each array.
                    with contextlib.suppress(OSError, BusyError):
                        self._store.seal()
            finally:
                self._store.close()

    def _check(self, *roles: Role) -> None:
        check_may(self._role, *roles, location=self.location)


def _levels(top: Blobs, group: str) -> list[Blobs]:
    """A place and the groups on the way down to one in it."""
    found = [top]
    for part in group.strip("/").split("/") if group.strip("/") else ():
        check_name(part)
        found.append(found[-1].below(part))
    return found
