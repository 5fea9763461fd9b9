"""The marks of a result in Zarr: one array per writer and opening, replaced whole.

Owned here: which of these arrays count. All marks are replaced in one step, by a number in the
record of the store: arrays that bear an earlier number count no more, whoever still writes them.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxstore.errors import FormatError, MissingError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.blobs import Blobs, FileBlobs
from jaxstore.stores.results import Marks
from jaxstore.stores.results_roles import STATUS, combine_marks
from jaxstore.stores.zarr3 import ZarrStore

_TURN = "marks"  # in the record: the number of the arrays that count


class ZarrMarks:
    """The marks of one result, as one of its writers or readers has them; not for two threads."""

    def __init__(self, store: ZarrStore, blobs: Blobs, *, writer: str) -> None:
        self._store = store
        self._blobs = blobs
        self._writer = writer
        self._name = ""  # of this writer's array, "" as long as there is none
        self._mine = np.zeros(0, np.uint8)

    def read(self) -> Marks:
        """Of all writers together.

        Raises:
            FormatError: They are damaged, or gone.
        """
        while True:
            turn = self._turn()
            found = [marks for name in self._names(turn) if (marks := self._of(name)) is not None]
            if turn == self._turn():  # else they were replaced while they were read
                break
        if not found:
            raise FormatError(
                f"{self._store.location}: the arrays of its marks are gone. Restore {STATUS!r} "
                "from a copy, or compute the result again."
            )
        return combine_marks(found)

    def begin(self, n_units: int) -> None:
        """Make the array of this writer."""
        self._make(self._turn(), np.zeros(n_units, np.uint8))

    def put(self, units: Sequence[int], value: int) -> None:
        """Mark units whose chunks are written."""
        marks = self._mine.copy()
        marks[list(units)] = value
        self._store.check()  # what they tell of, before the marks
        self._store.write(self._name, (0,), marks)
        self._blobs.sync()
        self._mine = marks

    def replace(self, marks: Marks) -> None:
        """Replace the marks of all writers in one step."""
        turn = self._turn() + 1
        self._remove(lambda other: other >= turn)  # of who was killed before its step
        self._make(turn, marks)
        self.commit(turn)
        self._remove(lambda other: other < turn)

    def commit(self, turn: int | None = None) -> None:
        """Say which marks count; each record differs from the one before.

        Args:
            turn: The number of the arrays that count; None for those that do.
        """
        record = {_TURN: self._turn() if turn is None else turn, "nonce": uuid.uuid4().hex}
        self._store.commit(record)

    def _turn(self) -> int:
        turn = (self._store.committed() or {}).get(_TURN, 0)
        if type(turn) is not int:
            raise FormatError(f"{self._store.location}: its record names no marks, but {turn!r}.")
        return turn

    def _make(self, turn: int, marks: Marks) -> None:
        # New at each opening: who had the same name before may still write its own.
        name = f"{STATUS}/{turn:04d}-{self._writer}-{uuid.uuid4().hex[:8]}"
        marks = np.array(marks, np.uint8)
        chunks = (max(len(marks), 1),)
        spec = ArraySpec(name, marks.shape, chunks, marks.dtype, ("unit",))
        self._store.create(spec)
        self._store.write(name, (0,), marks)
        self._name, self._mine = name, marks

    def _names(self, turn: int) -> list[str]:
        return [name for name, of in self._arrays() if of == turn]

    def _arrays(self) -> Iterator[tuple[str, int]]:
        for folder in self._blobs.folders(STATUS):
            turn = folder.split("-")[0]
            if turn.isdecimal():
                yield f"{STATUS}/{folder}", int(turn)

    def _of(self, name: str) -> Marks | None:
        try:
            return self._store.read(name)
        except MissingError:  # its writer has only just made the folder
            return None

    def _remove(self, is_over: Callable[[int], bool]) -> None:
        for name, turn in list(self._arrays()):
            if is_over(turn):
                remove_all(self._blobs.below(name))


def remove_all(blobs: Blobs) -> None:
    """Remove a place that is ours, with all that is in it."""
    for key in list(blobs.keys()):
        blobs.delete(key)
    if isinstance(blobs, FileBlobs):
        shutil.rmtree(blobs.root, ignore_errors=True)  # empty folders, which zarr warns of
