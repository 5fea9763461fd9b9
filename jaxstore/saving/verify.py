"""Reading every committed chunk of a run or storage, and telling what is damaged.

Owned here: what has to be there, by manifest and commit record. Whether the bytes of a chunk are
those that were written is told by the store; nothing is repaired, and nothing is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxstore.errors import FormatError, MissingError
from jaxstore.saving.layout import Layout, home_of, layout_from_manifest
from jaxstore.saving.record import Record
from jaxstore.saving.run import check_begun
from jaxstore.saving.snapshot_stream import DATA, TIME, parse_record, tail_from_json
from jaxstore.saving.snapshot_stream import KIND as STORAGE
from jaxstore.saving.snapshot_stream import check_manifest as check_storage
from jaxstore.saving.tail import Piece, TailedStore, get_blob, get_tail
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.location import open_store
from jaxstore.stores.report import Damage, Report
from jaxstore.stores.run_format import ITERATION, MANIFEST

PIECE_CHUNKS = 16  # along the draws, that a store looks at in one call; it may fetch them together
MOST_DAMAGE = 10_000  # lines; a store with more is lost, and its lines would fill the memory

Region = tuple[slice, ...]


class Looked(NamedTuple):
    """How far the reading is."""

    n_bytes: int
    total_bytes: int
    n_damaged: int


@dataclass(slots=True)
class Look:
    """What was read and found so far."""

    tell: Callable[[Looked], None]
    total_bytes: int = 0
    n_chunks: int = 0
    n_bytes: int = 0
    names: set[str] = field(default_factory=set)  # of the arrays that were read
    damage: list[Damage] = field(default_factory=list)

    def add(self, place: str, what: object) -> None:
        """Note a damage.

        Raises:
            TooMuchError: There are so many that looking on makes no sense.
        """
        self.damage.append(Damage(place, str(what)))
        if len(self.damage) >= MOST_DAMAGE:
            raise TooMuchError

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Note what cannot be read at a place, and go on behind it."""
        try:
            yield
        except (FormatError, MissingError) as error:
            self.add(place, error)
        except OSError as error:
            # HDF5 tells damage without a number; the operating system's own errors have one.
            if error.errno is not None:
                raise
            self.add(place, error)


class TooMuchError(Exception):
    """Ends a look at a store that is damaged through and through; leaves `verify` as a report."""


def verify(where: Any, *, tell: Callable[[Looked], None] = lambda looked: None) -> Report:
    """Read every committed chunk of a run or storage, and all that says what they mean.

    Chunks are looked at up to the committed draws of each chain; that `iteration` grows along each
    chain, the manifest, the commit record, the checkpoint that it names and all coordinates are
    looked at too. A run that is being written may be verified as well.

    Args:
        where: A path, a URL, a handle of h5py, zarr or obstore, or a store.
        tell: Called from time to time with how far it is.

    Raises:
        MissingError: Nothing is there, or a run that has not committed yet.
        FormatError: What is there is neither a run nor a storage.

    >>> import jax.numpy as jnp, tempfile, jaxstore as js
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> _ = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=30,
    ...             collector=js.ZarrCollector(path))
    >>> report = js.verify(path)
    >>> report.is_sound, report.n_arrays, report.n_chunks
    (True, 2, 4)
    """
    store, began, look, is_whole = open_store(where), time.monotonic(), Look(tell), True
    try:
        manifest = store.attrs().get(MANIFEST)
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        if kind in (None, "run") and store.committed() is None:
            with suppress(FormatError):  # a manifest that is damaged is told below
                check_begun(store)
        if kind not in ("run", STORAGE):
            raise FormatError(
                f"{store.location} is neither a jaxstore run nor a storage: it has no such "
                "manifest. Give the path of a run."
            )
        try:
            (look_at_storage if kind == STORAGE else look_at_run)(store, manifest, look)
        except TooMuchError:
            is_whole = False
    finally:
        if store is not where:
            store.close()
    seconds = time.monotonic() - began
    return Report(
        store.location,
        len(look.names),
        look.n_chunks,
        look.n_bytes,
        seconds,
        tuple(look.damage),
        is_whole,
    )


def look_at_run(store: Store, manifest: Json, look: Look) -> None:
    """Manifest, record, blobs, arrays, steps and coordinates of a run."""
    layout = record = None
    with look.at("manifest"):
        layout = layout_from_manifest(manifest, location=store.location)
    with look.at("commit record"):
        record = Record.from_json(store.committed(), location=store.location)
    if layout is None or record is None:
        return
    steps = [f"{group}/{ITERATION}" for group in layout.groups]
    pieces = look_at_blobs(store, record, look, name=home_of(layout))
    ends = {
        name: ends_of(name, record, pieces)
        for name in [*(leaf.name for leaf in layout.leaves), *steps]
    }
    specs = list(look_at_specs(store, layout, ends, look))
    parts = {spec.name: regions_of(spec, ends[spec.name]) for spec in specs}
    look.total_bytes = sum(bytes_of(s, region) for s in specs for region in parts[s.name])
    for spec in specs:
        n_before = len(look.damage)
        look_at_chunks(store, spec, parts[spec.name], look)
        if spec.name in steps and len(look.damage) == n_before:
            source: Any = TailedStore(store, pieces) if pieces else store
            look_at_steps(source, spec, record.draws, look)
    look_at_coordinates(store, layout, look)


def look_at_blobs(store: Store, record: Record, look: Look, *, name: str) -> list[Piece]:
    """The blobs that a record names; returns the pieces of its tail."""
    try:
        if record.checkpoint is not None:
            get_blob(store, name, record.checkpoint.mark)
    except FormatError as error:
        if is_latest(store, record):
            look.add(record.checkpoint.mark.key if record.checkpoint else "", error)
    try:
        return [] if record.tail is None else get_tail(store, name, record.tail)
    except FormatError as error:
        if record.tail is not None and is_latest(store, record):
            look.add(record.tail.key, error)
        return []


def is_latest(store: Store, record: Record) -> bool:
    """Whether no commit came since, after which a blob may be replaced."""
    return (store.committed() or {}).get("nonce") == record.nonce


def look_at_specs(
    store: Store, layout: Layout, ends: Mapping[str, list[int]], look: Look
) -> Iterator[ArraySpec]:
    """How the arrays lie that are as the manifest and the commit record have them."""
    inner = {leaf.name: (leaf.shape, leaf.dtype) for leaf in layout.leaves}
    for name, draws in ends.items():
        if not any(draws):
            continue
        spec = None
        with look.at(name):
            spec = store.spec(name)
        if spec is None:
            continue
        shape, dtype = inner.get(name, ((), np.dtype(np.int64)))
        n_chains = max(chain + 1 for chain, n in enumerate(draws) if n)
        if spec.dtype != dtype or spec.shape[2:] != shape or len(spec.shape) != 2 + len(shape):
            look.add(
                name,
                f"it is {spec.dtype}{list(spec.shape)}, the manifest has {dtype} and "
                f"{list(shape)} for a draw",
            )
        elif spec.shape[0] < n_chains or spec.shape[1] < max(draws):
            look.add(
                name,
                f"its shape is {list(spec.shape)}, and {n_chains} chains of up to "
                f"{max(draws):,} draws are committed",
            )
        else:
            yield spec


def ends_of(name: str, record: Record, pieces: Iterable[Piece]) -> list[int]:
    """Draws of each chain that chunks of an array must hold; what follows lies in the tail."""
    ends = list(record.draws)
    for piece in pieces:
        for chain in piece.chains:
            if piece.name == name and chain < len(ends):
                ends[chain] = min(ends[chain], piece.first_draw)
    return ends


def regions_of(spec: ArraySpec, ends: list[int]) -> list[Region]:
    """The regions whose chunks must be there, without one twice.

    >>> spec = ArraySpec("x", (3, 9), (2, 4), np.dtype("f4"), ("chain", "draw"))
    >>> regions_of(spec, [9, 2, 0])
    [(slice(0, 2, None), slice(0, 9, None))]
    """
    regions: list[Region] = []
    for first in range(0, len(ends), spec.chunks[0]):
        stop = min(max(ends[first : first + spec.chunks[0]]), spec.shape[1])
        chains = slice(first, min(first + spec.chunks[0], len(ends)))
        step = PIECE_CHUNKS * spec.chunks[1]
        regions += [(chains, slice(a, min(a + step, stop))) for a in range(0, stop, step)]
    return regions


def bytes_of(spec: ArraySpec, region: Region) -> int:
    """Bytes of a region, decoded."""
    extents = [part.stop - part.start for part in region]
    return math.prod((*extents, *spec.shape[len(extents) :])) * spec.dtype.itemsize


def look_at_chunks(store: Store, spec: ArraySpec, regions: list[Region], look: Look) -> None:
    """Read the chunks of regions of one array."""
    look.names.add(spec.name)
    for region in regions:
        with look.at(spec.name):
            for what in store.damage(spec.name, region):
                look.add(spec.name, what)
        full = (*region, *(slice(0, n) for n in spec.shape[len(region) :]))
        look.n_chunks += math.prod(
            -(-cut.stop // n) - cut.start // n for cut, n in zip(full, spec.chunks, strict=True)
        )
        look.n_bytes += bytes_of(spec, region)
        look.tell(Looked(look.n_bytes, look.total_bytes, len(look.damage)))


def look_at_steps(source: Any, spec: ArraySpec, draws: tuple[int, ...], look: Look) -> None:
    """Whether the steps of each chain grow from draw to draw."""
    rows = PIECE_CHUNKS * spec.chunks[1]
    for chain, n_draws in enumerate(draws):
        last = -1
        for start in range(0, n_draws, rows):
            region = (slice(chain, chain + 1), slice(start, min(start + rows, n_draws)))
            steps = source.read(spec.name, region)[0]
            wrong = np.flatnonzero(np.diff(steps, prepend=last) <= 0)
            if len(wrong) or len(steps) < region[1].stop - start:
                at = start + int(wrong[0] if len(wrong) else len(steps))
                look.add(spec.name, f"the step of draw {at} of chain {chain} is not after the last")
                break
            last = int(steps[-1])


def look_at_coordinates(store: Store, layout: Layout, look: Look) -> None:
    """Whether all groups and coordinates can be read."""
    groups = {leaf.name.rpartition("/")[0] for leaf in layout.leaves} | set(layout.groups)
    names = {f"{leaf.name.rpartition('/')[0]}/{dim}" for leaf in layout.leaves for dim in leaf.dims}
    there: set[str] = set()
    with look.at("names of the arrays"):
        there |= set(store.names())
    for name in sorted(groups | names):
        with look.at(name):
            if name in groups:
                store.attrs(name)
            elif store.labels(name) is None and name in there:
                spec = store.spec(name)
                look_at_chunks(store, spec, [tuple(slice(0, n) for n in spec.shape)], look)


def look_at_storage(store: Store, manifest: Json, look: Look) -> None:
    """Manifest, record and arrays of a storage."""
    record = None
    with look.at("manifest"):
        check_storage(manifest, location=store.location)
    with look.at("commit record"):
        record = parse_record(store.committed(), location=store.location)
    if record is None or not (record.n_snapshots or record.tail):
        return
    specs: list[ArraySpec] = []
    for name in (TIME, DATA):
        with look.at(name):
            spec = store.spec(name)
            if spec.shape[:1] < (record.n_snapshots,):
                look.add(name, f"it has {spec.shape}, {record.n_snapshots} snapshots are committed")
            specs.append(spec)
    regions = {s.name: rows_of(s, record.n_snapshots) for s in specs}
    look.total_bytes = sum(bytes_of(s, region) for s in specs for region in regions[s.name])
    for spec in specs:
        look_at_chunks(store, spec, regions[spec.name], look)
        if spec.name == DATA and record.tail is not None:
            with look.at("commit record"):
                tail_from_json(record.tail, inner=spec.shape[1:], dtype=spec.dtype)


def rows_of(spec: ArraySpec, n_rows: int) -> list[Region]:
    """The first rows of an array in regions of some chunks."""
    step, stop = PIECE_CHUNKS * spec.chunks[0], min(n_rows, spec.shape[0])
    return [(slice(a, min(a + step, stop)),) for a in range(0, stop, step)]
