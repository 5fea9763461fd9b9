"""Arrays in memory as sources of rows, taken as they are, without a copy.

Owned here: which arrays are in the memory of the host, NumPy's and those of other libraries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.sources.axes import Axes, axes_of
from jaxstore.sources.fetch import Index, RowSource
from jaxstore.sources.geometry import Array, ArrayGeometry

CHUNK_BYTES = 1 << 20  # rows copied at once: within the cache of a core
_HOST_DEVICES = {1, 3, 11}  # of DLPack: memory of the CPU, and that pinned by CUDA and by ROCm
_NUMBERS = "biufcV"  # V: some of bfloat16 and the like


def memory_arrays(arrays: Mapping[str, Any], *, axis: Axes = 0) -> dict[str, RowSource]:
    """Sources of arrays in memory; what is written into them later shows in the rows.

    Args:
        arrays: By name; of NumPy, or with `__dlpack__` and in the memory of the host, such as
            those of JAX and torch on the CPU.
        axis: The sample axis, of all or by name.

    Raises:
        TypeError: This is no array, or not in the memory of the host.
        FormatError: It does not hold numbers, or has no axis.
        MissingError: An axis is given for none of the arrays.

    >>> source = memory_arrays({"x": np.arange(6).reshape(3, 2)})["x"]
    >>> source.geometry.n_samples, source.geometry.inner_shape
    (3, (2,))
    """
    axes = axes_of(axis, arrays, location="memory")
    return {
        name: MemoryRows.of(name, host_array(name, values), axes[name])
        for name, values in arrays.items()
    }


def is_array(values: Any) -> bool:
    """Whether this is an array of some library, wherever its values are."""
    return isinstance(values, np.ndarray) or hasattr(values, "__dlpack__")


def host_array(name: str, values: Any) -> Array:
    """A view of an array by NumPy.

    Raises:
        TypeError: There can be none.
        FormatError: It does not hold numbers.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name!r} is a masked array, whose mask would be lost. Fill it first.")
    if "key<" in str(getattr(values, "dtype", "")):
        raise FormatError(f"{name!r} holds PRNG keys. Give `jax.random.key_data(keys)`.")
    if not isinstance(values, np.ndarray):
        values = _viewed(name, values)
    dtype = values.dtype
    if dtype.kind not in _NUMBERS or dtype.type is np.void:
        raise FormatError(
            f"{name!r} holds elements of {dtype}, which are no numbers. Encode them as integers."
        )
    array: Array = np.asarray(values)
    return array


def _viewed(name: str, values: Any) -> Any:
    if not hasattr(values, "__dlpack__"):
        raise TypeError(
            f"{name!r} is a {type(values).__name__}, not an array. Give an array, for example "
            "`numpy.asarray(values)`."
        )
    device = _device(values)
    if device is not None and device not in _HOST_DEVICES:
        raise TypeError(
            f"{name!r} is a {type(values).__name__} in the memory of a device (DLPack device "
            f"{device}), and rows are gathered by the host. Copy it first: `jax.device_get(x)`, "
            "`x.cpu()` or `x.get()`."
        )
    try:
        return np.from_dlpack(values)
    # What DLPack or NumPy's reading of it does not know: bfloat16, or an array over many devices.
    except (BufferError, RuntimeError, TypeError, ValueError):
        if not hasattr(values, "__array__"):
            raise
        return np.asarray(values)


def _device(values: Any) -> int | None:
    try:
        return int(values.__dlpack_device__()[0])
    except (BufferError, RuntimeError, TypeError, ValueError):  # an array over many devices
        devices = values.devices() if hasattr(values, "devices") else ()
        return 1 if {device.platform for device in devices} <= {"cpu"} else -1


@dataclass(frozen=True, slots=True)
class MemoryRows:
    """The rows of one array in memory."""

    geometry: ArrayGeometry
    rows: Array  # with the sample axis first
    location: str = "memory"
    is_remote: bool = False

    @classmethod
    def of(cls, name: str, values: Array, axis: int) -> MemoryRows:
        """An array, in chunks of rows."""
        if not values.ndim:
            raise FormatError(f"{name!r} is a single value, without an axis to take rows from.")
        native = values.dtype.newbyteorder("=")
        chunks = tuple(max(n, 1) for n in values.shape)
        whole = ArrayGeometry(name, values.shape, chunks, native, axis)
        n_rows = max(1, CHUNK_BYTES // max(1, whole.row_bytes))
        chunks = (*chunks[: whole.axis], n_rows, *chunks[whole.axis + 1 :])
        return cls(replace(whole, chunks=chunks), np.moveaxis(values, axis, 0))

    def stored_chunks(self, chunk: int) -> Sequence[Index]:
        """The chunk itself."""
        self.geometry.samples_in_chunk(chunk)
        return [(chunk,)]

    def read(self, index: Index, rows: Array) -> int:
        """Copy the rows of a chunk."""
        part = self.geometry.samples_in_chunk(index[0])
        rows[...] = self.rows[part.start : part.stop]
        return rows.nbytes

    def close(self) -> None:
        """Do nothing: the array is the user's."""
