"""Stores in Zarr v3, on a disk, in an object store, or wherever zarr can write.

Owned here: the Store protocol over documents and chunks. The documents are `zarr3_hierarchy` and
`zarr3_documents`, the bytes of a chunk `zarr3_codec`, putting objects `blobs`. Chunks are written
without zarr, which could not write beyond the shape; they are read with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.blobs import Blobs, blobs_at
from jaxstore.stores.dtypes import from_stored, same_dtype, to_stored
from jaxstore.stores.zarr3_chunks import Chunks
from jaxstore.stores.zarr3_documents import (
    COMMIT,
    DOCUMENT,
    RESERVED,
    array_document,
    array_spec,
    chunk_codec,
    dtype_of,
    group_document,
    is_array,
    is_labels,
    label_objects,
    plain_attrs,
)
from jaxstore.stores.zarr3_hierarchy import Hierarchy, check_root, key_of, make_root

Array = np.ndarray[Any, Any]


class ZarrStore:
    """Arrays in a Zarr v3 group; made by `new` or `open`."""

    def __init__(
        self, blobs: Blobs, *, is_writable: bool, compression: str | None, checksum: bool
    ) -> None:
        self._blobs = blobs
        self._tree = Hierarchy(blobs, is_writable=is_writable)
        self._is_writable = is_writable
        self._is_closed = False
        self._compression = compression
        self._checksum = checksum
        self._chunks: dict[str, Chunks] = {}

    @classmethod
    def new(
        cls, where: Any, *, compression: str | None = "zstd", checksum: bool = True
    ) -> ZarrStore:
        """Make an empty store where there is nothing yet; an empty directory is nothing.

        Args:
            where: A path, a URL, an obstore store, a zarr store, or an empty zarr group.
            compression: "zstd", "lz4" or None, for all arrays.
            checksum: Whether each chunk carries a crc32c, so that damage is noticed.

        Raises:
            ExistsError: Something is there, which stays as it is.
        """
        _check_compression(compression)
        blobs = blobs_at(where)
        make_root(blobs, may_be_group=isinstance(where, zarr.Group))
        return cls(blobs, is_writable=True, compression=compression, checksum=checksum)

    @classmethod
    def open(
        cls,
        where: Any,
        *,
        mode: str = "r",
        compression: str | None = "zstd",
        checksum: bool = True,
    ) -> ZarrStore:
        """Open a Zarr v3 group.

        Args:
            where: A path, a URL, an obstore store, a zarr store, or a zarr group.
            mode: "r" to read, also beside a writer; "r+" to write.
            compression: For arrays made from now on.
            checksum: Likewise.

        Raises:
            MissingError: Nothing is there.
            FormatError: It is not a Zarr v3 group.
        """
        if mode not in ("r", "r+"):
            raise ValueError(f"mode must be 'r' or 'r+', got {mode!r}")
        _check_compression(compression)
        blobs = blobs_at(where)
        check_root(blobs)
        is_writable = mode == "r+"
        store = cls(blobs, is_writable=is_writable, compression=compression, checksum=checksum)
        if is_writable:
            for name in ["", *(name for name, _ in store._tree.walk())]:
                blobs.tidy(name)
        return store

    @property
    def location(self) -> str:
        """Path or URL, without credentials."""
        return self._blobs.location

    @property
    def replaces_chunks(self) -> bool:
        """Whether a rewritten chunk is, at any moment, the old or the new one: it is."""
        return True

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values, and its groups."""
        self._check_writable()
        _check_name(spec.name)
        self._tree.check_free(spec.name)
        document = array_document(spec, compression=self._compression, checksum=self._checksum)
        _refuse_reserved(spec.attrs)
        self._tree.make_groups(spec.name)
        self._tree.replace(spec.name, document)

    def names(self) -> list[str]:
        """Names of all arrays, sorted."""
        return sorted(name for name, document in self._tree.walk() if is_array(document))

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here, with its present shape."""
        return array_spec(name, self._array(name))

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put values at an offset, beyond the shape too."""
        self._check_writable()
        same_dtype(name, values, dtype_of(self._array(name)))
        self._chunks_of(name).write(start, to_stored(values))

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Publish a new shape; chunks wholly beyond it are removed when an axis shrinks."""
        self._check_writable()
        document = self._array(name)
        before, after = document["shape"], [int(n) for n in shape]
        if before == after:
            return
        if len(before) != len(after):
            raise ValueError(f"{name!r} has {len(before)} axes, the new shape is {tuple(after)}")
        self._tree.replace(name, {**document, "shape": after})
        if any(n < old for n, old in zip(after, before, strict=True)):
            self._chunks_of(name).remove_beyond(after)

    def read(self, name: str, region: tuple[slice, ...] = ()) -> Array:
        """Copy out a region."""
        document = self._array(name)
        try:
            found = _open_array(self._blobs, name)[region or ...]
        except (ValueError, RuntimeError) as error:
            what = _damage(self._blobs, name, document, region=region) or str(error)
            raise FormatError(
                f"{name!r} in {self.location}: {what}. Restore it from a copy, or write it again."
            ) from error
        return from_stored(np.asarray(found), dtype_of(document))

    def attrs(self, name: str = "") -> dict[str, Json]:
        """Attributes of the root, of a group, or of an array."""
        document = self._tree.find(name)
        if document is None:
            raise self._missing(name)
        return plain_attrs(document)

    def set_attrs(self, attrs: Mapping[str, Json], name: str = "") -> None:
        """Add or replace attributes; a group is made if absent."""
        self._check_writable()
        _refuse_reserved(attrs)
        document = self._tree.find(name) if name else self._tree.root()
        if document is None:
            _check_name(name)
            self._tree.make_groups(name)
            document = group_document({})
        self._tree.replace(name, _with_attrs(document, attrs))

    def commit(self, record: Mapping[str, Json]) -> None:
        """Replace the record that says what counts."""
        self._check_writable()
        text = json.dumps(dict(record))
        self._tree.replace("", _with_attrs(self._tree.root(), {COMMIT: text}))

    def committed(self) -> dict[str, Json] | None:
        """The record as last committed."""
        text = self._tree.root().get("attributes", {}).get(COMMIT)
        return None if text is None else json.loads(text)

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Make a coordinate of strings."""
        self._check_writable()
        _check_name(name)
        self._tree.check_free(name)
        objects = label_objects(name, labels)
        self._tree.make_groups(name)
        document = json.loads(objects.pop(DOCUMENT))
        for key, data in objects.items():
            self._blobs.put(key_of(name, key), [data])
        self._tree.replace(name, document)

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate, None where there are none."""
        document = self._tree.find(name)
        if document is None or not is_labels(document):
            return None
        return [str(label) for label in np.asarray(_open_array(self._blobs, name)[:])]

    def seal(self) -> None:
        """Put a copy of all documents at the root, so that readers open the store at once."""
        self._check_writable()
        self._tree.seal()

    def reader(self) -> ZarrStore:
        """A store for reading the same data, which stays open when this one is closed."""
        compression, checksum = self._compression, self._checksum
        return ZarrStore(self._blobs, is_writable=False, compression=compression, checksum=checksum)

    def close(self) -> None:
        """Write no more."""
        self._is_closed = True

    def _array(self, name: str) -> dict[str, Json]:
        document = self._tree.find(name)
        if document is None or not is_array(document):
            raise self._missing(name)
        return document

    def _chunks_of(self, name: str) -> Chunks:
        if name not in self._chunks:
            codec = chunk_codec(name, self._array(name))
            self._chunks[name] = Chunks(self._blobs, name, codec)
        return self._chunks[name]

    def _missing(self, name: str) -> MissingError:
        return MissingError(f"no {name!r} in {self.location}. There are {self.names()}.")

    def _check_writable(self) -> None:
        if self._is_closed:
            raise BusyError(f"{self.location} is closed. Open it again with mode 'r+'.")
        if not self._is_writable:
            raise BusyError(f"{self.location} is open for reading. Open it with mode 'r+'.")


def _open_array(blobs: Blobs, name: str) -> Any:
    """The array for zarr to read."""
    path = f"{blobs.prefix}{name}"
    return zarr.open_array(blobs.zarr_store, path=path, mode="r", zarr_format=3)


def _damage(
    blobs: Blobs, name: str, document: dict[str, Json], *, region: tuple[slice, ...]
) -> str | None:
    """Which chunk of a region it is that cannot be decoded."""
    try:
        codec = chunk_codec(name, document)
    except FormatError:  # codecs of another program, which only zarr can name
        return None
    return Chunks(blobs, name, codec).damage(*_bounds(region, document["shape"]))


def _bounds(region: tuple[slice, ...], shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """First corner and extent of a region."""
    cuts = (*region, *[slice(None)] * (len(shape) - len(region)))
    bounds = [cut.indices(n) for cut, n in zip(cuts, shape, strict=True)]
    return [start for start, _, _ in bounds], [stop - start for start, stop, _ in bounds]


def _check_compression(compression: str | None) -> None:
    if compression not in (None, "zstd", "lz4"):
        raise ValueError(f"compression must be 'zstd', 'lz4' or None, got {compression!r}")


def _check_name(name: str) -> None:
    """Refuse parts that zarr or a file system understands in another way."""
    if any(part in ("", ".", "..", DOCUMENT) or "\\" in part for part in name.split("/")):
        raise ValueError(f"{name!r} is no name in a store: encode each part of it first")


def _refuse_reserved(attrs: Mapping[str, Json]) -> None:
    if taken := sorted(set(attrs) & set(RESERVED)):
        raise ValueError(f"attributes {taken} are jaxstore's own. Choose other names.")


def _with_attrs(document: dict[str, Json], attrs: Mapping[str, Json]) -> dict[str, Json]:
    return {**document, "attributes": {**document.get("attributes", {}), **attrs}}
