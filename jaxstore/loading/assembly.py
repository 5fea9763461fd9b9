"""From windows of chunks to batches on the host.

Owned here: the turn of reading one window while another is drained, and the filling of batches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jaxstore.errors import MismatchError
from jaxstore.loading.batch import HostBatch
from jaxstore.loading.blocks import Blocks, Request
from jaxstore.loading.epoch import Segment, Window, windows
from jaxstore.loading.randomness import row_seeds
from jaxstore.loading.recipe import Recipe, Uses
from jaxstore.loading.shuffle import Rows


class Gather(Protocol):
    """Where the arrays of a batch are put together: `HostGather`, or a device."""

    def arrived(self, request: Request) -> None:
        """The chunks of a window are in memory."""
        ...

    def begin(self) -> dict[str, Any]:
        """Arrays of a new batch."""
        ...

    def put(self, arrays: dict[str, Any], start: int, rows: Rows) -> None:
        """Put rows at positions of a batch."""
        ...

    def leave(self, arrays: dict[str, Any]) -> None:
        """The window goes before this batch is full."""
        ...

    def finish(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """The arrays, once all rows are in."""
        ...


@dataclass(slots=True)
class Timings:
    """Seconds that making batches took, stage by stage."""

    read: float = 0.0  # waited for chunks
    gather: float = 0.0
    transform: float = 0.0
    place: float = 0.0  # onto the device
    blocked: float = 0.0  # waited until a batch was taken


def host_batches(
    recipe: Recipe,
    blocks: Blocks,
    gather: Gather,
    timings: Timings,
    *,
    epoch: int,
    batch: int,
) -> Generator[HostBatch]:
    """The batches of an epoch from one of them on.

    Raises:
        FormatError: A chunk is damaged, or absent from a strict source.
        OSError: A chunk cannot be read.
    """
    uses = Uses(recipe)
    ahead: deque[tuple[Window, Request]] = deque()
    coming = windows(recipe.schedule, epoch=epoch, batch=batch, positions=recipe.positions)
    filling: dict[int, HostBatch] = {}

    def advance() -> None:
        for window in coming:
            ahead.append((window, _request(blocks, uses, window)))
            return

    advance()
    while ahead:
        advance()  # the next one is read while this one is drained
        window, request = ahead.popleft()
        began = time.perf_counter()
        blocks.wait(request)
        timings.read += time.perf_counter() - began
        gather.arrived(request)
        for number, segments in _by_batch(window):
            began = time.perf_counter()
            target = filling.pop(number, None) or HostBatch.blank(
                gather.begin(), len(recipe.positions), epoch=epoch, index=number
            )
            for segment in segments:
                _fill(target, segment, recipe, gather)
            timings.gather += time.perf_counter() - began
            filling[number] = target
            del target  # a name that outlives the yield would keep the buffer of the batch
            if number < window.n_done:
                yield _finished(filling.pop(number), recipe, gather, timings)
        for target in filling.values():
            gather.leave(target.arrays)
        blocks.release(request)


def _request(blocks: Blocks, uses: Uses, window: Window) -> Request:
    rows = [segment.rows for segment in window.segments]
    return blocks.request(
        np.concatenate(rows) if rows else np.empty(0, np.int64),
        last_use=lambda column, chunks: uses.after(
            column, chunks, epoch=window.epoch, last=window.last
        ),
    )


def _by_batch(window: Window) -> Iterator[tuple[int, list[Segment]]]:
    """The segments of a window by batch, and batches that end here without any for this process."""
    parts: dict[int, list[Segment]] = {}
    for segment in window.segments:
        parts.setdefault(segment.batch, []).append(segment)
    yield from ((number, parts.get(number, [])) for number in window.batches)


def _fill(target: HostBatch, segment: Segment, recipe: Recipe, gather: Gather) -> None:
    part = slice(segment.start, segment.start + len(segment.rows))
    gather.put(target.arrays, segment.start, segment.rows)
    target.mask[part] = segment.is_real
    target.rows[part] = segment.rows if segment.is_real else -1
    seed = recipe.schedule.seed
    target.seeds[part] = row_seeds(segment.rows, seed=seed, epoch=segment.epoch)


def _finished(target: HostBatch, recipe: Recipe, gather: Gather, timings: Timings) -> HostBatch:
    began = time.perf_counter()
    target.arrays = gather.finish(target.arrays)
    timings.gather += time.perf_counter() - began
    if recipe.batch_transform is not None:
        began = time.perf_counter()
        target.arrays = _transformed(recipe, target)
        timings.transform += time.perf_counter() - began
    return target


def _transformed(recipe: Recipe, target: HostBatch) -> dict[str, Any]:
    transform = recipe.batch_transform
    assert transform is not None
    try:
        found = dict(transform(target.arrays, target.seeds))
    except Exception as error:
        error.add_note(f"in batch_transform, batch {target.index} of epoch {target.epoch}")
        raise
    for label, value in found.items():
        if np.shape(value)[:1] != (len(target.rows),):
            raise MismatchError(
                f"batch_transform made {label!r} of shape {np.shape(value)}, expected "
                f"{len(target.rows)} rows on axis 0. Give a row for each row."
            )
    return found
