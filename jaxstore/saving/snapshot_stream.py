"""How snapshots lie in a store, and the stream that puts them there.

Owned here: names, dimensions, chunks, attributes and the commit record of a storage, and the order
in which they are written. When a chunk is full is for `storages`, the thread is `writer`'s.

    /        attributes: `jaxstore`, the manifest below as JSON
    /time    (snapshot,), float64
    /data    (snapshot, *shape of one snapshot), the snapshot axis first so that chunks append

The commit record says how many snapshots count: {"snapshots": n, "state": "running" | "complete"}.
While an HDF5 file rewrites a short last chunk in place, "tail" holds those that were in it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.saving import untrusted
from jaxstore.saving.block import HostArray
from jaxstore.saving.layout import MAX_CHUNK_BYTES, versions
from jaxstore.saving.snapshot_arrays import Region, Snapshot, SnapshotArray, Source
from jaxstore.saving.writer import Writer
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.dtypes import from_stored, stored_dtype, to_stored
from jaxstore.stores.run_format import FORMAT_VERSION, MANIFEST

TIME, DATA = "time", "data"
KIND = "storage"


@dataclass(frozen=True, slots=True)
class Rows:
    """Snapshots for the writer, which begin a chunk."""

    start: int
    snapshots: tuple[Snapshot, ...]
    is_last: bool  # nothing follows for now; else they fill the chunk

    @property
    def n_bytes(self) -> int:
        """Bytes that wait with this."""
        return sum(snapshot.data.nbytes for snapshot in self.snapshots)


class SnapshotStream:
    """Writes chunks of snapshots into a store on a writer thread, and commits each.

    Args:
        store: A fresh store, which this owns from here on.
        stride: For the manifest, as `chunk_size`.
        chunk_size: Snapshots per chunk.
        queue_bytes: What may wait for the writer at most.
        replaces_whole: Whether the store puts a new chunk in an old one's place in one step.
    """

    def __init__(
        self, store: Store, *, stride: int, chunk_size: int, queue_bytes: int, replaces_whole: bool
    ) -> None:
        self._store = store
        self._chunk_size = chunk_size
        self._replaces_whole = replaces_whole
        self._committed = 0
        self._is_closed = False
        self._reader: Store | None = None  # after `close`, once something is read
        self._writer = Writer(self._write, queue_bytes=queue_bytes, name=store.location)
        store.set_attrs({MANIFEST: manifest_of(stride=stride, chunk_size=chunk_size)})
        self._commit(0, state="running")

    @property
    def location(self) -> str:
        """Where the store is."""
        return self._store.location

    def check(self) -> None:
        """Raise what the writer thread met, if it met something."""
        if self._writer.error is not None:
            raise self._writer.error

    def put(self, rows: Rows) -> None:
        """Hand over rows; waits while the queue is full. Raises what the writer thread met."""
        self._writer.put(rows, rows.n_bytes or 1)

    def wait(self) -> None:
        """Wait until everything is with the store, and end the thread until the next `put`."""
        self._writer.drain()
        self._writer.stop()

    def arrays(
        self, n_stored: int, rest: tuple[Snapshot, ...], like: Snapshot
    ) -> tuple[SnapshotArray, SnapshotArray]:
        """Handles on the first rows of the store and what follows them; waits for the writer."""
        self._writer.drain()
        return snapshot_arrays(
            self, inner=like.data.shape, dtype=like.data.dtype, n_stored=n_stored, rest=rest
        )

    def read(self, name: str, region: Region = ()) -> HostArray:
        """Copy out a region of an array of the store, also after `close`."""
        if self._is_closed and self._reader is None:
            self._reader = self._store.reader()
        return (self._reader or self._store).read(name, region)

    def close(self) -> None:
        """End the thread and let go of the store, which can still be read."""
        self._writer.stop()
        self._is_closed = True
        self._store.close()

    def _write(self, item: object) -> None:
        assert isinstance(item, Rows)  # the queue takes any object
        stop = item.start + len(item.snapshots)
        if item.snapshots:
            if item.start < self._committed and not self._replaces_whole:
                # The rows of an earlier `save` are about to be replaced in place, where a kill may
                # damage them. Until they are back, they count as they are in the record.
                tail = item.snapshots[: self._committed - item.start]
                self._commit(item.start, state="running", tail=tail)
            self._write_rows(item)
        self._commit(stop, state="complete" if item.is_last else "running")
        if item.is_last:
            self._store.seal()

    def _write_rows(self, rows: Rows) -> None:
        data = np.stack([snapshot.data for snapshot in rows.snapshots])
        times = np.array([snapshot.time for snapshot in rows.snapshots])
        if not self._store.names():
            for spec in specs_of(data, chunk_size=self._chunk_size):
                self._store.create(spec)
        for name, values in ((TIME, times), (DATA, data)):
            self._store.write(name, (rows.start, *(0,) * (values.ndim - 1)), values)
        for name, values in ((TIME, times), (DATA, data)):
            self._store.resize(name, (rows.start + len(values), *values.shape[1:]))

    def _commit(self, n_snapshots: int, *, state: str, tail: tuple[Snapshot, ...] = ()) -> None:
        record = {"snapshots": n_snapshots, "state": state, "committed_at": _now()}
        self._store.commit(record | ({"tail": tail_to_json(tail)} if tail else {}))
        self._committed = n_snapshots


def snapshot_arrays(
    source: Source,
    *,
    inner: tuple[int, ...],
    dtype: np.dtype[Any],
    n_stored: int,
    rest: tuple[Snapshot, ...] = (),
) -> tuple[SnapshotArray, SnapshotArray]:
    """Handles on time, shape (M,), and data, shape (*inner, M)."""
    times = tuple(np.asarray(snapshot.time) for snapshot in rest)
    float64 = np.dtype(np.float64)
    data = tuple(snapshot.data for snapshot in rest)
    return (
        SnapshotArray(source, TIME, inner=(), dtype=float64, n_stored=n_stored, rest=times),
        SnapshotArray(source, DATA, inner=inner, dtype=dtype, n_stored=n_stored, rest=data),
    )


def specs_of(data: np.ndarray[Any, Any], *, chunk_size: int) -> tuple[ArraySpec, ArraySpec]:
    """Empty arrays for snapshots such as these rows, (n, *inner)."""
    inner = data.shape[1:]
    chunks = chunk_shape(inner, chunk_size=chunk_size, itemsize=data.dtype.itemsize)
    dims = tuple(f"data_dim_{axis}" for axis in range(len(inner)))
    is_time = {"coordinates": TIME}  # by the CF conventions, so that xarray takes it for one
    return (
        ArraySpec(TIME, (0,), (chunk_size,), np.dtype(np.float64), ("snapshot",)),
        ArraySpec(DATA, (0, *inner), chunks, data.dtype, ("snapshot", *dims), is_time),
    )


def chunk_shape(
    inner: tuple[int, ...], *, chunk_size: int, itemsize: int, most_bytes: int = MAX_CHUNK_BYTES
) -> tuple[int, ...]:
    """Always `chunk_size` snapshots; where they are too large, fewer trajectories of each.

    >>> chunk_shape((2, 100), chunk_size=64, itemsize=8)
    (64, 2, 100)
    >>> chunk_shape((2, 1_000_000), chunk_size=64, itemsize=8)
    (64, 2, 15625)
    """
    parts = [max(n, 1) for n in inner]
    while parts and max(parts) > 1 and chunk_size * itemsize * int(np.prod(parts)) > most_bytes:
        widest = parts.index(max(parts))
        parts[widest] = -(-parts[widest] // 2)
    return (chunk_size, *parts)


def tail_to_json(tail: tuple[Snapshot, ...]) -> Json:
    """Snapshots for the commit record."""
    bits = to_stored(np.stack([snapshot.data for snapshot in tail]))
    times = [snapshot.time.hex() for snapshot in tail]  # JSON has no infinity
    return {"time": times, "data": base64.b64encode(bits.tobytes()).decode()}


def tail_from_json(
    tail: Json, *, inner: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Snapshot, ...]:
    """Snapshots of a commit record, of the shape and dtype that those in the store have.

    Raises:
        FormatError: They are none.
    """
    try:
        bits = np.frombuffer(base64.b64decode(tail["data"], validate=True), stored_dtype(dtype))
        data = from_stored(bits, dtype).reshape(len(tail["time"]), *inner)
        times = [float.fromhex(at) for at in tail["time"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"the snapshots in the commit record are damaged: {error!r}") from error
    return tuple(Snapshot(at, row) for at, row in zip(times, data, strict=True))


class StorageRecord(NamedTuple):
    """The commit record of a storage, parsed."""

    n_snapshots: int  # that count, from the beginning of the arrays
    state: str  # "running" or "complete"
    committed_at: str | None  # None before the first commit
    tail: Json  # snapshots that follow, for `tail_from_json`; None if there are none


def parse_record(record: Json, *, location: str) -> StorageRecord:
    """The commit record of a storage; it may have been killed before the first.

    Raises:
        FormatError: It is damaged.
    """
    if record is None:
        return StorageRecord(0, "running", None, None)
    try:
        n, state, at = record["snapshots"], record["state"], record["committed_at"]
    except (KeyError, TypeError):
        n = state = at = None
    is_known = untrusted.is_count(n) and state in ("running", "complete") and isinstance(at, str)
    if not is_known:
        raise FormatError(
            f"The commit record of {location} is damaged: it has {untrusted.brief(n)} snapshots. "
            "Restore it from a copy; without it nobody knows which snapshots count."
        )
    return StorageRecord(n, state, at, record.get("tail"))


def manifest_of(*, stride: int, chunk_size: int) -> Json:
    """What a reader needs to know of a storage, beside the arrays and the commit record."""
    return untrusted.sealed(
        {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "created_at": _now(),
            "stride": stride,
            "chunk_size": chunk_size,
            "versions": versions(),
        }
    )


def check_manifest(manifest: Json, *, location: str) -> None:
    """Refuse what is no storage, damaged, or of a newer format.

    Raises:
        FormatError: It is not a storage that this jaxstore reads.
    """
    untrusted.check_manifest(manifest, kind=KIND, version=FORMAT_VERSION, location=location)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
