"""How an HDF5 store writes.

Owned here: the choices of whoever makes or opens one. What follows from them is `hdf5_codec` and
`hdf5`.
"""

from __future__ import annotations

from typing import TypedDict


class Settings(TypedDict, total=False):
    """How a store writes.

    `compression`, of arrays made from now on, is "zstd", "lz4" (by Blosc) or None. `zstd` chunks
    always carry a checksum; `checksum` decides for the others. With `durable`, commits and blobs
    wait until they outlive a power loss.
    """

    compression: str | None
    checksum: bool
    durable: bool
