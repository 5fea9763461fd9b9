"""Bytes that will replace others in a file, kept back in memory.

Owned here: which bytes lie where, whatever was put over what. `hdf5_journalled` puts them in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator


class Overlay:
    """Ranges of bytes, none over another."""

    def __init__(self) -> None:
        self._starts: list[int] = []  # sorted
        self._parts: dict[int, bytes] = {}  # by start

    def __bool__(self) -> bool:
        return bool(self._parts)

    def put(self, start: int, data: bytes) -> None:
        """Put bytes over whatever is there.

        >>> overlay = Overlay()
        >>> overlay.put(0, b"abcdef"), overlay.put(2, b"XY")
        (None, None)
        >>> list(overlay.within(0, 9)), list(overlay.within(3, 5))
        ([(0, b'ab'), (2, b'XY'), (4, b'ef')], [(3, b'Y'), (4, b'e')])
        """
        if not data:
            return
        for at, part in list(self._over(start, start + len(data))):
            self._remove(at)
            self._insert(at, part[: max(0, start - at)])
            self._insert(max(at, start + len(data)), part[max(0, start + len(data) - at) :])
        self._insert(start, data)

    def within(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """What lies in a range: offsets and bytes, cut to it."""
        for at, part in self._over(start, stop):
            first = max(at, start)
            yield first, part[first - at : stop - at]

    def cut(self, length: int) -> None:
        """Forget what lies beyond a length."""
        for at, part in list(self._over(length, length + (1 << 62))):
            self._remove(at)
            self._insert(at, part[: max(0, length - at)])

    def all(self) -> list[tuple[int, bytes]]:
        """Everything, in order; what touches is joined."""
        joined: list[tuple[int, list[bytes]]] = []
        end = -1
        for at in self._starts:
            if at != end:
                joined.append((at, []))
            joined[-1][1].append(self._parts[at])
            end = at + len(self._parts[at])
        return [(at, b"".join(parts)) for at, parts in joined]

    def _over(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """The ranges that touch one another's bytes with this one."""
        i = bisect_left(self._starts, start)
        if i and self._starts[i - 1] + len(self._parts[self._starts[i - 1]]) > start:
            i -= 1
        while i < len(self._starts) and self._starts[i] < stop:
            yield self._starts[i], self._parts[self._starts[i]]
            i += 1

    def _insert(self, start: int, data: bytes) -> None:
        if data:
            self._starts.insert(bisect_left(self._starts, start), start)
            self._parts[start] = data

    def _remove(self, start: int) -> None:
        del self._starts[bisect_left(self._starts, start)], self._parts[start]
