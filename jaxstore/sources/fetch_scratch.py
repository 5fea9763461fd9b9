"""Memory that each reading thread uses again: page faults on fresh memory cost more than reading.

Owned here: one buffer per use. They grow to the largest chunk that came, and end with the thread
or with the sources.
"""

from __future__ import annotations

import threading

import numpy as np

from jaxstore.sources.geometry import Array


class Scratch(threading.local):
    """Buffers of bytes for each thread; what one holds lasts until it is asked for again."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def encoded(self, n_bytes: int) -> Array:
        """Room for a chunk as it is stored."""
        # Packed chunks differ in size: a little more serves those that come.
        return self._take("encoded", n_bytes, n_bytes // 8)

    def unpacked(self, n_bytes: int) -> Array:
        """Room for a chunk between two of its filters."""
        return self._take("unpacked", n_bytes, 0)

    def decoded(self, n_bytes: int) -> Array:
        """Room for a decoded chunk."""
        return self._take("decoded", n_bytes, 0)

    def _take(self, use: str, n_bytes: int, n_more: int) -> Array:
        found = self._buffers.get(use)
        if found is None or found.nbytes < n_bytes:
            self._buffers.pop(use, None)  # first, so that there are never both
            found = self._buffers[use] = np.empty(n_bytes + n_more, np.uint8)
        return found[:n_bytes]
