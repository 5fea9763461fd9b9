"""Stores in Zarr v3, on a disk, in an object store, or wherever zarr can write.

Owned here: the Store protocol over documents and chunks. The documents are `zarr3_hierarchy` and
`zarr3_documents`, the bytes of a chunk `zarr3_codec`, putting objects `blobs`. Chunks are written
without zarr, which could not write beyond the shape, and read without it, since it shows absent
chunks as values; only arrays of other programs are read with it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Buffer, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import zarr

from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.blob_keys import check_key
from jaxstore.stores.blobs import Blobs, blobs_at
from jaxstore.stores.blobs_icechunk import IcechunkBlobs
from jaxstore.stores.dtypes import from_stored, same_dtype, to_stored
from jaxstore.stores.geometry import region_bounds
from jaxstore.stores.holder import Holder
from jaxstore.stores.limits import check_memory
from jaxstore.stores.run_format import told_of
from jaxstore.stores.zarr3_chunks import Chunks
from jaxstore.stores.zarr3_codec import check_compression
from jaxstore.stores.zarr3_documents import (
    COMMIT,
    WRITER,
    array_document,
    array_spec,
    check_attrs,
    chunk_codec,
    chunk_shape,
    dtype_of,
    group_document,
    is_array,
    is_labels,
    plain_attrs,
    with_attrs,
)
from jaxstore.stores.zarr3_foreign import ForeignChunks
from jaxstore.stores.zarr3_hierarchy import Hierarchy, check_name, check_root, key_of, make_root
from jaxstore.stores.zarr3_hold import Hold, hold_on
from jaxstore.stores.zarr3_labels import label_document, read_labels, write_labels
from jaxstore.stores.zarr3_lease import lease_of
from jaxstore.stores.zarr3_parse import parse_record

Array = np.ndarray[Any, Any]


class ZarrStore:
    """Arrays in a Zarr v3 group; made by `new` or `open`."""

    def __init__(
        self,
        blobs: Blobs,
        *,
        holder: Holder | None,
        compression: str | None,
        checksum: bool,
        is_guest: bool = False,
    ) -> None:
        self._blobs = blobs
        self._tree = Hierarchy(blobs, is_writable=holder is not None)
        self._hold = hold_on(blobs, self._tree, holder, is_guest=is_guest) if holder else None
        self._is_closed = False
        self._compression = compression
        self._checksum = checksum
        self._chunks: dict[str, Chunks] = {}

    @classmethod
    def new(
        cls,
        where: Any,
        *,
        compression: str | None = "zstd",
        checksum: bool = True,
        durable: bool = False,
    ) -> ZarrStore:
        """Make an empty store where there is nothing yet; an empty directory is nothing.

        Args:
            where: A path, a URL, an obstore store, a zarr store, or an empty zarr group.
            compression: "zstd", "lz4" or None, for all arrays.
            checksum: Whether each chunk carries a crc32c, so that damage is noticed.
            durable: Whether commits wait until files outlive a power loss.

        Raises:
            ExistsError: Something is there, which stays as it is.
        """
        check_compression(compression)
        blobs, holder = blobs_at(where, durable=durable), Holder.of_this_process()
        attrs = {WRITER: holder.to_json()}
        make_root(blobs, may_be_group=isinstance(where, zarr.Group), attrs=attrs)
        store = cls(blobs, holder=holder, compression=compression, checksum=checksum)
        store._check_writable()
        return store

    @classmethod
    def open(
        cls,
        where: Any,
        *,
        mode: str = "r",
        compression: str | None = "zstd",
        checksum: bool = True,
        durable: bool = False,
    ) -> ZarrStore:
        """Open a Zarr v3 group.

        Args:
            where: A path, a URL, an obstore store, a zarr store, or a zarr group.
            mode: "r" to read, also beside a writer; "r+" to write; "guest" to write chunks, and
                arrays of one's own, beside the writer that has it.
            compression: For arrays made from now on.
            checksum: Likewise.
            durable: As for `new`.

        Raises:
            BusyError: Another writer has it.
            MissingError: Nothing is there.
            FormatError: It is not a Zarr v3 group.
        """
        if mode not in ("r", "r+", "guest"):
            raise ValueError(f"mode must be 'r', 'r+' or 'guest', got {mode!r}")
        check_compression(compression)
        blobs = blobs_at(where, durable=durable)
        check_root(blobs)
        holder, is_guest = (None if mode == "r" else Holder.of_this_process()), mode == "guest"
        store = cls(
            blobs, holder=holder, compression=compression, checksum=checksum, is_guest=is_guest
        )
        if holder:
            store._check_writable()
        if holder and not is_guest:
            blobs.tidy()
        return store

    @property
    def location(self) -> str:
        """Path or URL, without credentials."""
        return self._blobs.location

    @property
    def replaces_chunks(self) -> bool:
        """Whether a rewritten chunk is, at any moment, the old or the new one: it is."""
        return True

    @property
    def lease_s(self) -> float | None:
        """Seconds within which a living writer must commit; None for files."""
        return lease_of(self._blobs)

    @property
    def keeps_commits(self) -> bool:
        """Whether each commit stays readable by itself: Icechunk's do."""
        return isinstance(self._blobs, IcechunkBlobs)

    def create(self, spec: ArraySpec) -> None:
        """Make an array of fill values, and its groups."""
        hold = self._check_writable()
        check_name(spec.name)
        self._tree.check_free(spec.name)
        document = array_document(spec, compression=self._compression, checksum=self._checksum)
        check_attrs(spec.attrs)
        self._tree.make_groups(spec.name)
        self._tree.replace(spec.name, document)
        hold.note_array(spec.name)

    def names(self, *, with_labels: bool = False) -> list[str]:
        """Names of all arrays, sorted."""
        return sorted(n for n, d in self._tree.walk() if is_array(d, or_labels=with_labels))

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here, with its present shape."""
        return array_spec(name, self._array(name))

    def write(self, name: str, start: Sequence[int], values: Array) -> None:
        """Put values at an offset, beyond the shape too."""
        self._check_writable()
        document = self._array(name)
        same_dtype(name, values, dtype_of(document))
        if self.keeps_commits and values.size:  # chunks lie within the shape; seen with the commit
            self.resize(name, np.maximum(document["shape"], np.add(start, values.shape)).tolist())
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

    def read(self, name: str, region: tuple[slice, ...] = (), *, is_strict: bool = False) -> Array:
        """Copy out a region."""
        document = self._array(name)
        start, shape = region_bounds(name, region, document["shape"])
        dtype = dtype_of(document)
        what = f"{name!r} in {self.location}: the region of {tuple(shape)} {dtype}"
        check_memory(math.prod(shape) * dtype.itemsize, what)
        chunks = self._chunks_to_read(name, document)
        return from_stored(chunks.read(start, shape, is_strict=is_strict), dtype)

    def delete_blob(self, name: str, key: str) -> None:
        """Remove the bytes under a key of an array, if there are any."""
        self._check_writable()
        check_key(key)
        self._blobs.delete(key_of(name, key))

    def damage(self, name: str, region: tuple[slice, ...]) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        document = self._array(name)
        start, shape = region_bounds(name, region, document["shape"])
        yield from self._chunks_to_read(name, document).damage(start, shape)

    def attrs(self, name: str = "") -> dict[str, Json]:
        """Attributes of the root, of a group, or of an array."""
        document = self._tree.find(name)
        if document is None:
            raise self._missing(name)
        return plain_attrs(document)

    def set_attrs(self, attrs: Mapping[str, Json], name: str = "") -> None:
        """Add or replace attributes; a group is made if absent."""
        self._check_writable().check()
        check_attrs(attrs)
        document = self._tree.find(name) if name else self._tree.root()
        if document is None:
            check_name(name)
            self._tree.make_groups(name)
            document = group_document({})
        self._tree.replace(name, with_attrs(document, attrs), own=attrs)

    def check(self) -> None:
        """Refuse to go on in a store that others took over; what was put outlives a power loss."""
        hold = self._check_writable()
        self._blobs.sync()
        hold.check()

    def commit(self, record: Mapping[str, Json]) -> None:
        """Replace the record that says what counts."""
        text = json.dumps(dict(record))
        self.check()  # what the record tells of, before the record
        self._tree.replace("", with_attrs(self._tree.root(), {COMMIT: text}))
        self._blobs.sync()
        self._blobs.publish(told_of(record))

    def committed(self) -> dict[str, Json] | None:
        """The record as last committed."""
        text = self._tree.root().get("attributes", {}).get(COMMIT)
        return None if text is None else parse_record(text, location=self.location)

    def put_blob(self, name: str, key: str, parts: Sequence[Buffer]) -> None:
        """Keep bytes under a key of an array, where zarr and xarray do not look."""
        self._check_writable()
        check_key(key)
        self._array(name)
        self._blobs.put(key_of(name, key), parts)

    def get_blob(self, name: str, key: str) -> bytes | None:
        """The bytes under a key of an array, None if there are none."""
        check_key(key)
        check_name(name)
        return self._blobs.get(key_of(name, key))

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Make a coordinate of strings."""
        self._check_writable()
        check_name(name)
        self._tree.check_free(name)
        document = label_document(name, len(labels))
        self._tree.make_groups(name)
        if self.keeps_commits:  # where an array comes before its chunks
            self._tree.replace(name, document)
        write_labels(self._blobs, name, labels)
        self._tree.replace(name, document)

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate, None where there are none."""
        document = self._tree.find(name)
        if document is None or not is_labels(document):
            return None
        return read_labels(self._blobs, name, document)

    def seal(self) -> None:
        """Put a copy of all documents at the root, so that readers open the store at once."""
        hold = self._check_writable()
        hold.check()
        self._tree.seal()
        hold.release()
        self._blobs.sync()

    def reader(self) -> ZarrStore:
        """A store for reading the same data, which stays open when this one is closed."""
        how: dict[str, Any] = {"compression": self._compression, "checksum": self._checksum}
        return ZarrStore(self._blobs.fresh(), holder=None, **how)

    def close(self) -> None:
        """Write no more."""
        if self._hold is not None:
            # Who cannot say so is taken for dead after a while. zarr's stores raise what they like.
            with contextlib.suppress(Exception):
                self._hold.release()
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

    def _chunks_to_read(self, name: str, document: dict[str, Json]) -> Chunks | ForeignChunks:
        chunk_shape(name, document)  # refused for any reader
        try:
            return Chunks(self._blobs, name, chunk_codec(name, document))
        except FormatError:
            return ForeignChunks(self._blobs, name, document)

    def _missing(self, name: str) -> MissingError:
        return MissingError(f"no {name!r} in {self.location}. There are {self.names()}.")

    def _check_writable(self) -> Hold:
        """What this writer has; after `seal` it is taken again."""
        if self._is_closed:
            raise BusyError(f"{self.location} is closed. Open it again with mode 'r+'.")
        if self._hold is None:
            raise BusyError(f"{self.location} is open for reading. Open it with mode 'r+'.")
        if not self._hold.is_held:
            self._tree.forget()
            self._chunks.clear()
            self._hold.take()
        return self._hold
