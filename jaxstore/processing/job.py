"""One unit of work, from stored items to marked chunks; the same on every engine.

Owned here: the order of reading, computing, writing and marking, and what becomes of an item that
fails. Who runs which unit when is `engines`, what is computed `work`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxstore.processing.ledger import Ledger
from jaxstore.processing.outputs import ERROR_BYTES, ERRORS
from jaxstore.processing.work import Piece, Streaming, Work
from jaxstore.stores.dtypes import fill_value, from_stored
from jaxstore.stores.results import DONE, FAILED, ResultGroup

Array = np.ndarray[Any, Any]
OnError = Literal["raise", "record"]

_log = logging.getLogger("jaxstore")


@dataclass(frozen=True, slots=True)
class Care:
    """What is done about an item that fails."""

    on_error: OnError
    retries: int  # of a unit, before it counts as failed

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "record"):
            raise ValueError(f"on_error is {self.on_error!r}. Choose 'raise' or 'record'.")
        if self.retries < 0:
            raise ValueError(f"retries must be >= 0, got {self.retries}")


class Job:
    """The units of one result, as one writer runs them.

    Args:
        work: What is computed.
        group: Where it is written.
        care: About items that fail.
        report: Is told of the items of each unit that is written.
    """

    def __init__(
        self, work: Work | Streaming, group: ResultGroup, care: Care, report: Callable[[int], None]
    ) -> None:
        self.work = work
        self.group = group
        self._care = care
        self._report = report
        self._ledger = Ledger(group)
        self._is_stopped = False

    def run(self, unit: int, turn: AbstractContextManager[Any] | None = None) -> None:
        """Read, compute, write, and mark one unit.

        Args:
            unit: Its number.
            turn: Is entered while the unit is computed, so that others read and write meanwhile.

        Raises:
            Exception: As it came, with a note that names unit and item.
        """
        if isinstance(self.work, Streaming):
            self._stream(self.work, unit, turn or nullcontext())
            return
        values, errors = self._computed(self.work, unit, turn or nullcontext())
        for (name, region), value in zip(self.work.regions(unit), values, strict=True):
            self.group.write(name, [part.start for part in region], value)
        if errors is not None:
            first = self.work.input.units.items(unit).start
            self.group.write(ERRORS, (first, self.work.input.units.block(unit), 0), errors)
        self._ledger.note(unit, DONE if errors is None else FAILED)
        self._report(self.work.input.units.n_items_of([unit]))

    def flush(self) -> None:
        """Mark what was written."""
        self._ledger.flush()

    def stop(self) -> None:
        """Leave units that are computed in pieces where they are; they stay to do."""
        self._is_stopped = True

    def _stream(self, work: Streaming, unit: int, turn: AbstractContextManager[Any]) -> None:
        for lot in self._pieces(work, unit, turn):
            for name, start, value in lot:
                self.group.write(name, start, value)
            if self._is_stopped:
                return
        self._ledger.note(unit, DONE)
        self._report(work.input.units.n_items_of([unit]))

    def _pieces(
        self, work: Streaming, unit: int, turn: AbstractContextManager[Any]
    ) -> Iterator[list[Piece]]:
        """What a unit writes, again from the start where it failed and may be tried again."""
        for attempt in range(self._care.retries + 1):
            try:
                pieces = work.pieces(unit, work.input.read(unit, work.input.units.items(unit)))
                while True:
                    with turn:
                        lot = next(pieces, None)
                    if lot is None:
                        return
                    yield lot
            except Exception as error:
                if attempt == self._care.retries:
                    error.add_note(_together(work, unit))
                    raise
                _log.warning("unit %d failed and is tried again: %s", unit, error)

    def _computed(
        self, work: Work, unit: int, turn: AbstractContextManager[Any]
    ) -> tuple[list[Array], Array | None]:
        """What a unit writes, and the words on the items that failed, if any did."""
        for attempt in range(self._care.retries + 1):
            try:
                values = work.input.read(unit, work.input.units.items(unit))
                with turn:
                    return work.compute(unit, values), None
            except Exception as error:
                if attempt < self._care.retries:
                    _log.warning("unit %d failed and is tried again: %s", unit, error)
                elif self._care.on_error == "record":
                    return self._in_parts(work, unit)
                else:
                    error.add_note(_where(work, unit))
                    raise
        raise AssertionError("a unit is tried at least once")

    def _in_parts(self, work: Work, unit: int) -> tuple[list[Array], Array | None]:
        """The outputs of a unit, with fill values where an item fails."""
        items = work.input.units.items(unit)
        values = [self._empty(name, region) for name, region in work.regions(unit)]
        errors = np.zeros((len(items), 1, ERROR_BYTES), np.uint8)
        waiting = [items]
        while waiting:
            part = waiting.pop()
            try:
                found = _some(work, unit, part)
            except Exception as error:
                if len(part) > 1:
                    waiting += _halves(part)
                    continue
                _log.warning("item %d failed: %s", part.start, error)
                text = _words(error)
                errors[part.start - items.start, 0, : len(text)] = np.frombuffer(text, np.uint8)
                continue
            for value, some in zip(values, found, strict=True):
                value[part.start - items.start : part.stop - items.start] = some
        return values, errors if errors.any() else None

    def _empty(self, name: str, region: tuple[slice, ...]) -> Array:
        dtype = self.group.spec(name).dtype
        shape = tuple(part.stop - part.start for part in region)
        fill = from_stored(np.asarray(fill_value(dtype)), dtype)
        return np.full(shape, fill, dtype)


def _words(error: Exception) -> bytes:
    """An error as it is recorded; of a long one start and end, where a traceback tells most."""
    text = f"{type(error).__name__}: {error}".strip().encode()
    if len(text) <= ERROR_BYTES:
        return text
    start = text[: ERROR_BYTES // 4]
    return start + b" ... " + text[len(start) + 5 - ERROR_BYTES :]


def _where(work: Work, unit: int) -> str:
    """Which item of a unit fails, found by halves: one by one would read chunks again and again."""
    part = work.input.units.items(unit)
    while len(part) > 1:
        first, rest = _halves(part)
        part = first if _fails(work, unit, first) else rest
    if _fails(work, unit, part):
        return f"in item {part.start} of the result, unit {unit}"
    return _together(work, unit)


def _halves(items: range) -> tuple[range, range]:
    middle = items.start + len(items) // 2
    return range(items.start, middle), range(middle, items.stop)


def _fails(work: Work, unit: int, items: range) -> bool:
    try:
        _some(work, unit, items)
    except Exception:
        return True
    return False


def _some(work: Work, unit: int, items: range) -> list[Array]:
    return work.compute(unit, work.input.read(unit, items))


def _together(work: Work | Streaming, unit: int) -> str:
    items = work.input.units.items(unit)
    return f"in items {items.start} to {items.stop - 1} of the result, unit {unit}, together"
