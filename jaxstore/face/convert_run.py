"""Runs and storages from one format into another: what is committed, and what goes on from it.

Owned here: which rows count, and that the commit record comes last. Draws and snapshots that wait
beside the arrays of an HDF5 file, since they fill no chunk, lie in the arrays of the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxstore.errors import BusyError, FormatError
from jaxstore.face.convert_arrays import Copy, Region, whole
from jaxstore.face.convert_tally import Tally
from jaxstore.saving.blob import unpack
from jaxstore.saving.layout import home_of, layout_from_manifest
from jaxstore.saving.record import Record
from jaxstore.saving.run import MOST_LOOKS, Run, run_in
from jaxstore.saving.snapshot_stream import (
    DATA,
    TIME,
    StorageRecord,
    check_manifest,
    parse_record,
    tail_from_json,
)
from jaxstore.saving.stored import StoredArray
from jaxstore.saving.verify import Look, ends_of, look_at_blobs, look_at_specs
from jaxstore.stores.base import Json, Store
from jaxstore.stores.run_format import ITERATION, MANIFEST


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a run or a storage is copied, and the record that makes it count."""

    copies: tuple[Copy, ...]
    record: dict[str, Json] | None  # None where nothing was ever committed
    names: frozenset[str] = frozenset()  # of its arrays, also those that have nothing yet
    home: str = ""  # array under which the checkpoint lies
    checkpoint: tuple[str, bytes] | None = None  # its key, and what it is


def plan_run(store: Store, tally: Tally, *, chunk_rows: int | None) -> Plan:
    """What of a run is copied: its draws as of one commit, and the checkpoint that goes with them.

    Raises:
        FormatError: It is damaged.
        BusyError: It commits faster than it can be looked at.
    """
    run, record, data = committed_run(store)
    layout = layout_from_manifest(store.attrs().get(MANIFEST), location=store.location)
    check_arrays(store, record)
    steps = (
        replace(run.steps, leaf=replace(run.steps.leaf, name=f"{group}/{ITERATION}"))
        for group in layout.groups
    )
    handles = {handle.name: handle for handle in (*run.leaves, *steps)}
    if record.state == "running":
        tally.notes.append(
            f"the run at {store.location} is running, or was killed: the copy holds what was "
            f"committed at {record.committed_at}, {sum(record.draws):,} draws"
        )
    return Plan(
        tuple(
            copy_of_draws(store, handles[name], chunk_rows=chunk_rows)
            for name in store.names()
            if name in handles
        ),
        replace(record, tail=None).to_json(),
        frozenset(handles),
        home_of(layout),
        None if data is None or record.checkpoint is None else (record.checkpoint.mark.key, data),
    )


def committed_run(store: Store) -> tuple[Run, Record, bytes | None]:
    """A run, its record, and its checkpoint, all as of one commit."""
    for _ in range(MOST_LOOKS):
        run = run_in(store)
        record = Record.from_json(store.committed(), location=store.location)
        if record.nonce != run.nonce:
            continue
        if record.checkpoint is None:
            return run, record, None
        mark, layout = record.checkpoint.mark, store.attrs()[MANIFEST]
        home = home_of(layout_from_manifest(layout, location=store.location))
        what = f"{mark.key} of {store.location}"
        try:
            data = store.get_blob(home, mark.key)
            if data is None or unpack(data, what=what)[0].get("nonce") != mark.nonce:
                raise FormatError(
                    f"{what} is gone, or another one than the commit record counts on. Restore "
                    "both from one copy."
                )
            return run, record, data
        except FormatError:
            # Replaced while it was read, if another commit came since.
            if (store.committed() or {}).get("nonce") == record.nonce:
                raise
    raise BusyError(f"{store.location} commits while it is looked at. Convert it later.")


def check_arrays(store: Store, record: Record) -> None:
    """Refuse a run whose arrays are not those that its manifest and record tell of.

    Raises:
        FormatError: They are not.
    """
    layout = layout_from_manifest(store.attrs().get(MANIFEST), location=store.location)
    look = Look(lambda looked: None)
    blobs = look_at_blobs(store, record, look, name=home_of(layout))
    names = [leaf.name for leaf in layout.leaves] + [f"{g}/{ITERATION}" for g in layout.groups]
    list(look_at_specs(store, layout, {n: ends_of(n, record, blobs) for n in names}, look))
    if look.damage:
        raise FormatError(f"{store.location}: {look.damage[0]}. Restore it from a copy.")


def copy_of_draws(store: Store, handle: StoredArray, *, chunk_rows: int | None) -> Copy:
    """The copy of one leaf, or of the steps: committed draws, and fill values behind them."""
    found, draws = store.spec(handle.name), handle.draws
    chunks = list(found.chunks)
    chunks[1] = chunk_rows or chunks[1]
    shape = (len(draws), max(draws, default=0), *found.shape[2:])
    spec = replace(found, chunks=tuple(chunks), shape=shape)
    plain = handle.plain()

    def regions() -> Iterator[Region]:
        # Chains that end early may have chunks of their own, of which those behind are not there.
        for first in range(0, len(draws), chunks[0]):
            n_draws = max(draws[first : first + chunks[0]])
            inner = tuple(slice(0, n) for n in spec.shape[2:])
            chains = slice(first, min(first + chunks[0], len(draws)))
            if n_draws:
                yield (chains, slice(0, n_draws), *inner)

    return Copy(spec, lambda region: np.asarray(plain[region]), tuple(regions()))


def plan_storage(store: Store, manifest: Json, tally: Tally) -> Plan:
    """What of a storage is copied: the snapshots that count.

    Raises:
        FormatError: It is damaged.
    """
    check_manifest(manifest, location=store.location)
    record = parse_record(store.committed(), location=store.location)
    if record.state == "running":
        tally.notes.append(
            f"the storage at {store.location} is running, or was killed: the copy holds what was "
            f"committed at {record.committed_at or 'no time'}"
        )
    names = frozenset({TIME, DATA})
    if record.committed_at is None:
        return Plan((), None, names)
    copies: list[Copy] = []
    n_tail = 0
    if record.n_snapshots or record.tail:
        tails = tail_of(store, record)
        n_tail = len(tails[TIME])
        copies = [copy_of_snapshots(store, name, record, tails[name]) for name in (TIME, DATA)]
    made = {
        "snapshots": record.n_snapshots + n_tail,
        "state": record.state,
        "committed_at": record.committed_at,
    }
    return Plan(tuple(copies), made, names)


def tail_of(store: Store, record: StorageRecord) -> dict[str, Any]:
    """The snapshots that lie in the record, by name of their array."""
    spec = store.spec(DATA)
    kind: dict[str, Any] = {"inner": spec.shape[1:], "dtype": spec.dtype}
    tail = tail_from_json(record.tail, **kind) if record.tail else ()
    data = np.empty((0, *spec.shape[1:]), spec.dtype)
    return {
        TIME: np.array([snapshot.time for snapshot in tail], np.float64),
        DATA: np.stack([snapshot.data for snapshot in tail]) if tail else data,
    }


def copy_of_snapshots(store: Store, name: str, record: StorageRecord, tail: Any) -> Copy:
    """The copy of one array of a storage."""
    found, n = store.spec(name), record.n_snapshots
    spec = replace(found, shape=(n + len(tail), *found.shape[1:]))

    def read(region: Region) -> Any:
        rows, *inner = region
        parts = [tail[slice(max(rows.start - n, 0), max(rows.stop - n, 0)), *inner]]
        if rows.start < n:
            before = (slice(rows.start, min(rows.stop, n)), *inner)
            parts.insert(0, store.read(name, before, is_strict=True))
        return np.concatenate(parts)

    return whole(spec, read)
