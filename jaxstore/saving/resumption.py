"""Taking a run up again: what it was when it stopped, and cutting it back to its checkpoint.

Owned here: the way from a store at rest to a `Recorder` that goes on. Nothing is changed before
`cut_back`, which is safe to be killed in: the record comes first, then the arrays follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxstore.errors import MismatchError
from jaxstore.saving.assembly import Strand
from jaxstore.saving.checkpoint import Checkpoint, get_checkpoint
from jaxstore.saving.layout import Layout, home_of, layout_from_manifest, manifest_of
from jaxstore.saving.record import Mark, Record
from jaxstore.saving.recorder import Key, Recorder
from jaxstore.saving.tail import Piece, put_tail, with_tail
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.run_format import ITERATION, MANIFEST


@dataclass(frozen=True, slots=True)
class Found:
    """A run that stopped, as it lies in a store."""

    store: Store
    manifest: Mapping[str, Json]
    layout: Layout
    record: Record
    checkpoint: Checkpoint | None  # None where it has to begin anew

    @property
    def is_complete(self) -> bool:
        """Whether it ended by itself."""
        return self.record.state == "complete"


def find_run(store: Store) -> Found | None:
    """The run in a store, None if one was about to begin and has nothing yet.

    Raises:
        FormatError: What is there is no run, or damaged.
        MismatchError: It has draws and no checkpoint to go on from.
    """
    manifest: Any = store.attrs().get(MANIFEST)
    if manifest is None and not store.names():
        return None
    layout = layout_from_manifest(manifest, location=store.location)
    if store.committed() is None and not any(name in store.names() for name in _names(layout)):
        return None
    record = Record.from_json(store.committed(), location=store.location)
    mark = record.checkpoint
    if mark is None:
        may_begin_anew = manifest["settings"].get("checkpoint_every") and record.state != "complete"
        if any(record.draws) and not may_begin_anew:
            raise _no_checkpoint(store, record)
        return Found(store, manifest, layout, record, None)
    point = get_checkpoint(store, home_of(layout), mark.mark)
    if record.state == "complete" and not point.senders:  # of the chains that ended last
        raise _no_checkpoint(store, record)
    late = set(range(len(record.draws))) - point.going - set(point.ended)
    if point.senders and late:
        # A device that had not come to its first step, while another had come to a checkpoint.
        if point.ended:
            raise MismatchError(
                f"the run at {store.location} stopped when chains {sorted(late)} had begun beside "
                "others and had no checkpoint. Nothing was changed. Save to a new place."
            )
        return Found(store, manifest, layout, record, None)
    return Found(store, manifest, layout, record, point)


def cut_back(
    found: Found,
    *,
    told: Mapping[str, Mapping[str, Json]],
    chunk_draws: int | None,
    n_draws: int | None,
) -> Recorder:
    """Drop what came after the checkpoint; a recorder that goes on from there.

    Args:
        found: The run.
        told: `settings` and `identity`, as they are from now on.
        chunk_draws: For arrays that are not there yet.
        n_draws: Likewise.
    """
    store, layout, point = found.store, found.layout, found.checkpoint
    specs = specs_of(store, layout)
    draws = point.draws if point else ()
    strands: dict[Key, list[Strand]] = {}
    pieces: list[Piece] = []
    if point and specs:
        reader = with_tail(store, home_of(layout), found.record.tail)
        for key, count in strands_of(point):
            strands[key], waiting = strands_at(reader, specs, layout, key=key, count=count)
            pieces += waiting
    tail = None
    if pieces and not store.replaces_chunks:
        tail = Mark.next("tail", found.record.tail)
        put_tail(store, home_of(layout), tail, pieces)
    mark = found.record.checkpoint if point else None
    store.commit(Record.now(tuple(draws), "running", mark, tail).to_json())
    ended = ended_of(point) if point else {}
    kept = list(draws)
    for i, spec in enumerate(specs):
        if not store.replaces_chunks:
            mine = [s[min(i, len(layout.leaves))].stored for s in strands.values()]
            kept = [*ended.values(), *mine]
        store.resize(spec.name, (len(draws), max(kept, default=0), *spec.shape[2:]))
    if any(found.manifest.get(key) != dict(value) for key, value in told.items()):
        created_at = found.manifest["created_at"]
        store.set_attrs({MANIFEST: manifest_of(layout, created_at=created_at, **told)})
    recorder = Recorder(store, layout, chunk_draws=chunk_draws, n_draws=n_draws)
    recorder.go_on(specs, strands, ended, checkpoint=mark, tail=tail)
    return recorder


def specs_of(store: Store, layout: Layout) -> list[ArraySpec]:
    """The arrays of a run as they lie there: leaves, then `iteration` of each group; [] if none."""
    there = set(store.names())
    names = _names(layout)
    # A kill while they are made leaves some; they are empty, and the others come when needed.
    return [store.spec(name) for name in names] if there.issuperset(names) else []


def strands_of(point: Checkpoint) -> list[tuple[Key, int]]:
    """Chains that go on, as they advance together, with their draws."""
    found: list[tuple[Key, int]] = []
    for sender in point.senders:
        if sender.is_ragged:
            found += [((chain, 1), point.draws[chain]) for chain in sender.chains]
        else:
            key = (sender.chains[0], len(sender.chains))
            found.append((key, point.draws[sender.chains[0]]))
    return found


def ended_of(point: Checkpoint) -> dict[int, int]:
    """Draws of the chains that had ended before a checkpoint."""
    return {chain: point.draws[chain] for chain in point.ended}


def strands_at(
    reader: Store, specs: list[ArraySpec], layout: Layout, *, key: Key, count: int
) -> tuple[list[Strand], list[Piece]]:
    """Strands of chains with `count` draws, and the draws of theirs that fill no chunk."""
    strands, pieces = [], []
    n_leaves = len(layout.leaves)
    for i, spec in enumerate(specs):
        whole = count // spec.chunks[1] * spec.chunks[1]
        inner = tuple(slice(0, n) for n in spec.shape[2:])
        region = (slice(key[0], sum(key)), slice(whole, count), *inner)
        # Of the arrays of steps, the first stands for those of all groups.
        rows = reader.read(spec.name, region, is_strict=True) if count > whole else None
        if rows is not None:
            pieces.append(Piece(spec.name, key[0], whole, rows))
        if i <= n_leaves:
            strand = Strand(spec.chunks[1], whole)
            if rows is not None:
                strand.wait(rows)
            strands.append(strand)
    return strands, pieces


def _no_checkpoint(store: Store, record: Record) -> MismatchError:
    return MismatchError(
        f"the run at {store.location} is {record.state}, with {sum(record.draws):,} draws and no "
        "checkpoint, so nobody knows where its sampler was. Nothing was changed. Read it with "
        "jaxstore.open_run; save to a new place, with checkpoint_every=."
    )


def _names(layout: Layout) -> list[str]:
    return [
        *(leaf.name for leaf in layout.leaves),
        *(f"{group}/{ITERATION}" for group in layout.groups),
    ]
