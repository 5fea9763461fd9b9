"""A lazy handle on one array of a result.

Owned here: indexing that reads only what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxstore.sources.opening import array_in_place
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.indexing import split_index
from jaxstore.stores.results import ResultGroup, ResultPlace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class ResultArray:
    """An array at rest, (item, ...) or of a reduction (...); reads what you index, when you do.

    `process` and `Loader` take it as a source. `numpy.asarray` reads all of it. What is not
    computed yet reads as NaN, 0 where the dtype has no NaN; `Result.status` tells.
    """

    group: ResultGroup
    spec: ArraySpec
    place: ResultPlace  # that the result lies in

    @property
    def name(self) -> str:
        """In the result."""
        return self.spec.name

    @property
    def address(self) -> str | None:
        """Path or URL, "/a/results.zarr:/raw-peak_000/amp", for any process.

        None in memory, behind a handle, and where only the first items are shown.
        """
        where = self.place.address
        if where is None or self.shape != self.group.spec(self.name).shape:
            return None
        inside = array_in_place(where)[1]
        return f"{where}{':' if inside is None else ''}/{self.group.name}/{self.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """(item, ...), or (...) of a reduction."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self.spec.dtype

    @property
    def dims(self) -> tuple[str, ...]:
        """A name per axis."""
        return self.spec.dims

    @property
    def chunks(self) -> tuple[int, ...]:
        """Extent of a stored chunk along each axis."""
        return self.spec.chunks

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name!r} is a single value, which has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<ResultArray {self.name} {self.shape} {self.dtype} in {self.group.location}>"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.asarray(self[...], dtype)

    def __getitem__(self, index: Any) -> Any:
        region, inside = split_index(index, self.shape)
        return self.group.read(self.name, region)[inside]
