"""One array in host memory whose first axis grows without a copy.

Owned here: anonymous pages, how they are enlarged, and which of their rows hold something. Names,
attributes and the order of axes are `memory`.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxstore.stores.dtypes import fill_value, from_stored, stored_dtype

Array = np.ndarray[Any, Any]
_GIB = 1 << 30


class GrowingArray:
    """Fill values of any extent, of which only the rows that were reached take memory.

    Pages are enlarged by `mremap`, which moves page tables and no bytes; the system hands out
    pages when they are first touched, so room that waits for later rows costs nothing. While
    anyone holds an array over the pages, growth leaves them alone and moves to new ones.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._fill = fill_value(dtype)
        self._lock = threading.Lock()  # guards all below: which pages, and what was reached
        self._reached = 0  # rows below this hold values or fill values
        self._room = tuple(shape)
        self._pages = _new_pages(self._bytes(self._room))
        self._array = self._over(self._pages, self._room)

    def rows(self, shape: Sequence[int]) -> Array:
        """The first part, of `shape`, without a copy; later writes show in it."""
        with self._lock:
            self._make_room(shape)
            self._reach(shape[0])
            stored = self._array[tuple(slice(n) for n in shape)]
        return from_stored(stored, self._dtype)

    def write(self, start: Sequence[int], values: Array) -> None:
        """Put stored bits at an offset."""
        stop = tuple(first + n for first, n in zip(start, values.shape, strict=True))
        with self._lock:
            self._make_room(stop)
            is_whole_rows = values.shape[1:] == self._room[1:]  # of the room that there is by now
            self._reach(start[0] if is_whole_rows else stop[0])
            self._array[tuple(map(slice, start, stop))] = values
            self._reached = max(self._reached, stop[0])

    def _make_room(self, extent: Sequence[int]) -> None:
        if any(n > room for n, room in zip(extent, self._room, strict=True)):
            self._enlarge(tuple(map(max, self._room, extent)))

    def _reach(self, stop: int) -> None:
        """Put fill values into unreached rows below `stop`."""
        if stop > self._reached:
            if self._fill != 0:  # fresh pages are zero; NaN is not 0 either
                self._array[self._reached : stop] = self._fill
            self._reached = stop

    def _enlarge(self, needed: tuple[int, ...]) -> None:
        if needed[1:] == self._room[1:]:
            room = (_more(self._room[0], needed[0], row_bytes=self._bytes((1, *needed[1:]))),)
            self._stretch((*room, *needed[1:]))
        else:
            # Twice as much where more came before; what comes first is mostly all there will be,
            # and rows that are whole need no fill.
            inner = tuple(
                2 * n if n > had > 0 else n
                for n, had in zip(needed[1:], self._room[1:], strict=True)
            )
            self._move((needed[0], *inner))

    def _stretch(self, room: tuple[int, ...]) -> None:
        """More rows on the same pages; on new ones where someone holds the old."""
        kept = self._room
        del self._array
        try:
            self._pages.resize(max(self._bytes(room), 1))
        except (BufferError, SystemError):  # held by an array; this system has no mremap
            self._array = self._over(self._pages, kept)
            self._move(room)
        except BaseException:
            self._array = self._over(self._pages, kept)
            raise
        else:
            self._array, self._room = self._over(self._pages, room), room

    def _move(self, room: tuple[int, ...]) -> None:
        pages = _new_pages(self._bytes(room))
        array = self._over(pages, room)
        if self._fill != 0:
            array[: self._reached] = self._fill
        old = tuple(slice(n) for n in (self._reached, *self._room[1:]))
        array[old] = self._array[old]
        self._pages, self._array, self._room = pages, array, room

    def _bytes(self, room: Sequence[int]) -> int:
        return math.prod(room) * self._dtype.itemsize

    def _over(self, pages: mmap.mmap, room: tuple[int, ...]) -> Array:
        flat = np.frombuffer(pages, stored_dtype(self._dtype), count=math.prod(room))
        return flat.reshape(room)


def _new_pages(n_bytes: int) -> mmap.mmap:
    """Anonymous memory, all zero."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, max(n_bytes, 1))
    # Private: shared anonymous pages cannot be touched beyond their first size after mremap.
    pages = mmap.mmap(-1, max(n_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages refuses the advice
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _more(room: int, needed: int, *, row_bytes: int) -> int:
    """Rows to make room for: twice as many, but no more than 1 GiB or an eighth beyond.

    Untouched room is free, yet a system that does not overcommit refuses too much of it.
    """
    most = max(_GIB // max(row_bytes, 1), room // 8)
    return max(needed, room + min(room, most))
