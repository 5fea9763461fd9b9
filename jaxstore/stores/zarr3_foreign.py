"""Arrays whose chunks jaxstore cannot decode by itself, read through zarr.

Owned here: what zarr raises for damaged chunks, as our errors. Sharded arrays, arrays of other
codecs and other fill values come this way.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
import zarr.errors

from jaxstore.errors import FormatError
from jaxstore.stores.blobs import Blobs
from jaxstore.stores.geometry import chunk_regions
from jaxstore.stores.zarr3_documents import chunk_shape

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

# What the codecs of zarr raise for bytes, and zarr itself for documents, that are wrong.
_FAULTS = (
    *(ValueError, RuntimeError, TypeError, LookupError, EOFError, ArithmeticError),
    *(zlib.error, gzip.BadGzipFile, zarr.errors.BaseZarrError),
)
# zarr 3.1.5 has neither this nor the setting that raises it.
_ABSENT: Any = getattr(zarr.errors, "ChunkNotFoundError", ())


class ForeignChunks:
    """As `Chunks`, for reading."""

    def __init__(self, blobs: Blobs, name: str, document: Json) -> None:
        self._blobs = blobs
        self._name = name
        self._document = document

    def read(self, start: Sequence[int], shape: Sequence[int], *, is_strict: bool = False) -> Array:
        """Stored values of a region.

        Args:
            start: First corner.
            shape: Extent.
            is_strict: Whether absent chunks are an error, where this version of zarr can tell.

        Raises:
            FormatError: A chunk is damaged, or absent.
        """
        try:
            return self._read(start, shape, is_strict=is_strict)
        except _FAULTS as error:
            raise FormatError(
                f"{self._name!r} in {self._blobs.location}: {error}. Restore it from a copy, or "
                "write it again."
            ) from error

    def damage(self, start: Sequence[int], shape: Sequence[int]) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        for part in chunk_regions(start, shape, chunk_shape(self._name, self._document)):
            corner = [n + cut.start for n, cut in zip(start, part.in_values, strict=True)]
            extent = [cut.stop - cut.start for cut in part.in_values]
            try:
                self._read(corner, extent, is_strict=True)
            except _ABSENT:
                yield f"chunk {part.index} is absent"
            except _FAULTS as error:
                yield f"chunk {part.index} is damaged: {error}"

    def _read(self, start: Sequence[int], shape: Sequence[int], *, is_strict: bool) -> Array:
        path = f"{self._blobs.prefix}{self._name}"
        can_tell = "read_missing_chunks" in zarr.config.get("array")
        array: Any = zarr.open_array(
            self._blobs.zarr_store,
            path=path,
            mode="r",
            zarr_format=3,
            config={"read_missing_chunks": False} if is_strict and can_tell else None,
        )
        region = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
        return np.asarray(array[region or ...])
