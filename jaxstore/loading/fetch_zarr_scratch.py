"""Memory that each reading thread uses again: page faults on fresh memory cost more than reading.

Owned here: one buffer for bytes as they are stored, and one for a chunk that has to be decoded
aside. They grow to the largest chunk that came, and end with the thread or with the sources.
"""

from __future__ import annotations

import threading

import numpy as np

from jaxstore.loading.geometry import Array


class Scratch(threading.local):
    """Two buffers of bytes for each thread; what they hold lasts until the next call."""

    def __init__(self) -> None:
        self._encoded: Array = np.empty(0, np.uint8)
        self._decoded: Array = np.empty(0, np.uint8)

    def encoded(self, n_bytes: int) -> Array:
        """Room for an object of the store."""
        if self._encoded.nbytes < n_bytes:
            # Packed chunks differ in size: a little more serves those that come.
            self._encoded = np.empty(n_bytes + n_bytes // 8, np.uint8)
        return self._encoded[:n_bytes]

    def decoded(self, n_bytes: int) -> Array:
        """Room for a decoded chunk."""
        if self._decoded.nbytes < n_bytes:
            self._decoded = np.empty(n_bytes, np.uint8)
        return self._decoded[:n_bytes]
