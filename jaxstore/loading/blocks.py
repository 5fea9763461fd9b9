"""Decoded chunks in memory: the window that is drained, the one that fills, and what stays.

Owned here: the memory of chunks, the threads that read into it, and when a chunk makes room for
another. Memory is taken once, for all epochs: page faults on fresh memory cost more than all else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from jaxstore.errors import BusyError
from jaxstore.loading.column import Column
from jaxstore.loading.shuffle import Rows
from jaxstore.sources.geometry import Array

Chunks = Int64[np.ndarray, " chunks"]
LastUse = Callable[[int, Chunks], Int64[np.ndarray, " chunks"]]  # column, chunks -> when next


@dataclass(slots=True)
class Reads:
    """What was read, by all threads together."""

    chunks: int = 0  # stored chunks
    stored_bytes: int = 0
    seconds: float = 0.0  # reading, decoding and converting, summed over threads


@dataclass(frozen=True, slots=True)
class Request:
    """Chunks that stay in memory until they are released."""

    chunks: tuple[Chunks, ...]  # by column
    fresh: tuple[Rows, ...]  # slots that are being filled, by column
    futures: tuple[Future[None], ...]


@dataclass(slots=True)
class _Slots:
    """The memory of one column: as many places as it has slots, each for one chunk."""

    rows: Array  # (n_slots * chunk_rows, *row)
    slot_of: Rows  # by chunk; -1 where it is not in memory
    chunk_in: Rows  # by slot; -1 where it is empty
    pins: Rows  # by slot: requests that hold it
    futures: dict[int, list[Future[None]]] = field(default_factory=dict)  # by slot


class Blocks:
    """Chunks of columns in slots of memory.

    Args:
        columns: Whose chunks are kept.
        n_slots: Chunks of each column that are kept at most.
        max_inflight: Stored chunks that are read at the same time at most; a thread each.
    """

    def __init__(
        self, columns: Sequence[Column], n_slots: Sequence[int], *, max_inflight: int
    ) -> None:
        self._columns = columns
        self._slots = [_empty(column, n) for column, n in zip(columns, n_slots, strict=True)]
        self._max_inflight = max_inflight
        self._pool: ThreadPoolExecutor | None = None
        self._scratch = threading.local()
        self._lock = threading.Lock()  # guards `reads`
        self.reads = Reads()

    def open(self) -> None:
        """Start the threads, and count what they read from zero."""
        self.reads = Reads()
        self._pool = ThreadPoolExecutor(self._max_inflight, thread_name_prefix="jaxstore-read")

    def close(self) -> None:
        """End the threads; what was read whole stays for the next time."""
        if self._pool is None:
            return
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None
        for slots in self._slots:
            slots.pins[:] = 0
            for slot, futures in slots.futures.items():
                if any(f.cancelled() or f.exception() is not None for f in futures):
                    slots.slot_of[slots.chunk_in[slot]] = -1
                    slots.chunk_in[slot] = -1
            slots.futures.clear()

    def request(self, rows: Rows, *, last_use: LastUse) -> Request:
        """Begin to read the chunks that these rows need and that are not in memory.

        Args:
            rows: Of one window.
            last_use: When chunks are needed again; those needed last make room.
        """
        found = [
            self._place(number, column.chunks_of(rows), last_use)
            for number, column in enumerate(self._columns)
        ]
        futures = [f for _, _, column_futures in found for f in column_futures]
        return Request(
            tuple(chunks for chunks, _, _ in found),
            tuple(fresh for _, fresh, _ in found),
            tuple(futures),
        )

    def wait(self, request: Request) -> None:
        """Wait until all chunks of a request are in memory.

        Raises:
            FormatError: A chunk is damaged, or absent from a strict source.
            OSError: A chunk cannot be read.
        """
        for future in request.futures:
            future.result()

    def release(self, request: Request) -> None:
        """Allow that the chunks of a request make room for others."""
        for slots, chunks in zip(self._slots, request.chunks, strict=True):
            slots.pins[slots.slot_of[chunks]] -= 1

    def places(self, column: int, rows: Rows) -> Rows:
        """Where rows of a column lie among its slots."""
        chunks, within = np.divmod(rows, self._columns[column].chunk_rows)
        return self._slots[column].slot_of[chunks] * self._columns[column].chunk_rows + within

    def gather(self, column: int, rows: Rows, out: Array) -> None:
        """Copy rows of a column, whose chunks are in memory, to a batch."""
        places = self.places(column, rows)
        # "clip" spares a check of every index, and lets NumPy write into `out` as it goes.
        np.take(self._slots[column].rows, places, axis=0, out=out, mode="clip")

    def shape(self, column: int) -> tuple[int, ...]:
        """Of all slots of a column together."""
        return self._slots[column].rows.shape

    def chunk_in(self, column: int, slot: int) -> Array:
        """The rows of a slot."""
        n = self._columns[column].chunk_rows
        return self._slots[column].rows[slot * n : (slot + 1) * n]

    def _place(
        self, number: int, chunks: Chunks, last_use: LastUse
    ) -> tuple[Chunks, Rows, list[Future[None]]]:
        """Pin chunks of a column; give slots to those that have none, and begin to read them."""
        slots = self._slots[number]
        is_absent = slots.slot_of[chunks] < 0
        slots.pins[slots.slot_of[chunks[~is_absent]]] += 1
        missing = chunks[is_absent]
        fresh = self._free(number, len(missing), last_use)
        slots.slot_of[missing] = fresh
        slots.chunk_in[fresh] = missing
        slots.pins[fresh] += 1
        for chunk, slot in zip(missing.tolist(), fresh.tolist(), strict=True):
            slots.futures[slot] = self._begin(number, chunk, slot)
        held = slots.slot_of[chunks].tolist()
        return chunks, fresh, [f for slot in held for f in slots.futures.get(slot, ())]

    def _free(self, number: int, n: int, last_use: LastUse) -> Rows:
        """Slots for n chunks: empty ones first, then those of chunks that are needed last."""
        slots = self._slots[number]
        free = np.flatnonzero(slots.pins == 0)
        if len(free) < n:
            raise BusyError(
                f"{self._columns[number].name!r}: a window needs {n} more chunks in memory, there "
                f"are {len(free)} free. This is a fault of jaxstore; please report it."
            )
        if not n:
            return free[:0]
        held = slots.chunk_in[free]
        use = np.full(len(free), np.iinfo(np.int64).max)
        is_held = held >= 0
        use[is_held] = last_use(number, held[is_held])
        taken = free[np.argsort(-use, kind="stable")[:n]]
        old = slots.chunk_in[taken]
        slots.slot_of[old[old >= 0]] = -1
        for slot in taken.tolist():
            slots.futures.pop(slot, None)
        return taken

    def _begin(self, number: int, chunk: int, slot: int) -> list[Future[None]]:
        if self._pool is None:
            raise BusyError("these blocks are closed")
        column = self._columns[number]
        n_rows = len(column.source.geometry.samples_in_chunk(chunk))
        rows = self.chunk_in(number, slot)[:n_rows]
        if column.convert is not None:
            return [self._pool.submit(self._convert, number, chunk, rows)]
        stored = column.source.stored_chunks(chunk)
        return [self._pool.submit(self._read, column, index, rows) for index in stored]

    def _read(self, column: Column, index: tuple[int, ...], rows: Array) -> None:
        began = time.perf_counter()
        n_bytes = column.source.read(index, rows)
        self._count(1, n_bytes, time.perf_counter() - began)

    def _convert(self, number: int, chunk: int, rows: Array) -> None:
        """Read all of a chunk, then convert it: what stays in memory is the result."""
        began = time.perf_counter()
        column = self._columns[number]
        stored = self._raw(number)[: len(rows)]
        indices = column.source.stored_chunks(chunk)
        n_bytes = sum(column.source.read(index, stored) for index in indices)
        convert = column.convert
        assert convert is not None
        try:
            rows[...] = convert(stored)
        except Exception as error:
            error.add_note(
                f"in the transform of {column.name!r} in {column.source.location}, chunk {chunk}"
            )
            raise
        self._count(len(indices), n_bytes, time.perf_counter() - began)

    def _raw(self, number: int) -> Array:
        """Memory of this thread for a chunk as stored."""
        kept: dict[int, Array] = self._scratch.__dict__.setdefault("raw", {})
        if number not in kept:
            geometry = self._columns[number].source.geometry
            shape = (geometry.sample_chunk_size, *geometry.inner_shape)
            kept[number] = np.empty(shape, geometry.dtype)
        return kept[number]

    def _count(self, n_chunks: int, n_bytes: int, seconds: float) -> None:
        with self._lock:
            self.reads.chunks += n_chunks
            self.reads.stored_bytes += n_bytes
            self.reads.seconds += seconds


def _empty(column: Column, n_slots: int) -> _Slots:
    rows: Any = np.empty((n_slots * column.chunk_rows, *column.row.shape), column.row.dtype)
    n_chunks = column.source.geometry.n_chunks
    return _Slots(
        rows=rows,
        slot_of=np.full(n_chunks, -1, np.int64),
        chunk_in=np.full(n_slots, -1, np.int64),
        pins=np.zeros(n_slots, np.int64),
    )
