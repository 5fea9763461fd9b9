"""Rows of an HDF5 dataset as HDF5 itself slices them, one thread at a time.

Owned here: the way for all that `fetch_hdf5_direct` does not read: other filters and layouts, files
without a descriptor, files that are being written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import BusyError
from jaxstore.sources.fetch import Index, chunks_along, place_in, unreadable
from jaxstore.sources.fetch_hdf5_direct import DataFile, opened
from jaxstore.sources.geometry import Array, ArrayGeometry


@dataclass(slots=True)
class SlicedRows:
    """The rows of any dataset."""

    geometry: ArrayGeometry
    location: str
    dataset: h5py.Dataset
    stored: np.dtype[Any]  # the dtype of the dataset, in native byte order
    is_strict: bool
    file: DataFile | None
    is_remote: bool = False

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """One read each."""
        return chunks_along(self.geometry, chunk)

    def read(self, index: Index, rows: Array) -> int:
        """Read one stored chunk into its place."""
        g = self.geometry
        file = opened(self.file, g.name, self.location)
        target = place_in(g, index, rows.view(self.stored))
        starts = [i * c for i, c in zip(index, g.chunks, strict=True)]
        region = tuple(slice(a, a + n) for a, n in zip(starts, target.shape, strict=True))
        with file.lock:
            if not self.dataset:
                raise BusyError(
                    f"{g.name!r}: its user closed {self.location}. Keep it open as long as rows "
                    "are loaded from it."
                )
            try:
                if self.is_strict and self._is_absent(starts):
                    raise unreadable(g.name, self.location, index, "is absent")
                if target.flags.c_contiguous and target.size:
                    self.dataset.read_direct(target, region)
                else:
                    target[...] = self.dataset[region]
            except (OSError, RuntimeError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # of the system
                what = f"cannot be read: {error}"
                raise unreadable(g.name, self.location, index, what) from error
        return target.nbytes

    def close(self) -> None:
        """Let go of the file."""
        self.file = None

    def _is_absent(self, corner: Sequence[int]) -> bool:
        if self.dataset.chunks is None:
            is_contiguous = self.dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
            return is_contiguous and self.dataset.id.get_offset() is None
        return self.dataset.id.get_chunk_info_by_coord(tuple(corner)).byte_offset is None
