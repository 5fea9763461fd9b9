"""Which bits represent a dtype at rest.

Owned here: the dtypes that a store takes, the native dtype whose bits represent each of them, and
the value that stands for "not written". HDF5 and Zarr know no bfloat16, so such an array lies
there as the unsigned integers of its bits, with the true name in an attribute beside it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from jaxstore.errors import FormatError, MismatchError

DType = np.dtype[Any]

_NATIVE = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
# bfloat16, float8_*, int4, ...: each element fills whole bytes in NumPy, int4 too.
_EXTENDED = {
    name: np.dtype(kind)
    for name, kind in vars(ml_dtypes).items()
    if isinstance(kind, type) and issubclass(kind, np.generic)
}
_ADVICE = {
    "O": "Give arrays of numbers; keep other Python objects in attributes",
    "S": "Encode text as integers, or keep it in attributes",
    "U": "Encode text as integers, or keep it in attributes",
    "T": "Encode text as integers, or keep it in attributes",
    "M": "Store the integers, `values.view('int64')`, and name the unit in an attribute",
    "m": "Store the integers, `values.view('int64')`, and name the unit in an attribute",
    "f": "Cast to float64",
    "c": "Cast to complex128",
}


@lru_cache(maxsize=256)
def stored_dtype(dtype: Any) -> DType:
    """Native dtype whose bits represent `dtype` at rest; most dtypes represent themselves.

    Raises:
        FormatError: There is no such dtype; the message says what to do instead.

    >>> stored_dtype("float32"), stored_dtype(ml_dtypes.bfloat16), stored_dtype(ml_dtypes.int4)
    (dtype('float32'), dtype('uint16'), dtype('uint8'))
    """
    plain = _plain(dtype)
    return plain if plain.name in _NATIVE else np.dtype(f"u{plain.itemsize}")


def to_stored(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values as their stored bits: a view, unless the byte order has to change."""
    return values.astype(_plain(values.dtype), copy=False).view(stored_dtype(values.dtype))


def from_stored(values: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    """Stored bits as values of `dtype`: a view, unless the byte order has to change."""
    return values.astype(stored_dtype(dtype), copy=False).view(_plain(dtype))


def same_dtype(name: str, values: np.ndarray[Any, Any], dtype: Any) -> None:
    """Refuse to write values of another dtype than the array has: a cast may lose digits."""
    if _plain(values.dtype) != _plain(dtype):
        raise MismatchError(
            f"{name!r} holds {np.dtype(dtype)}, the values to write are {values.dtype}. "
            f"Cast them, or create an array of {values.dtype}."
        )


def fill_value(dtype: Any) -> np.generic[Any]:
    """What stands for "not written", in the stored dtype: NaN where there is one, else zero.

    >>> fill_value("float32"), fill_value("int8"), fill_value(ml_dtypes.bfloat16)
    (np.float32(nan), np.int8(0), np.uint16(32704))
    """
    plain = _plain(dtype)
    fill: complex = 0
    if plain.kind == "c":
        fill = complex(np.nan, np.nan)
    elif _has_nan(plain):
        fill = np.nan
    return to_stored(np.array([fill], plain))[0]


def parse_dtype(name: str) -> DType:
    """Dtype of a name that a store has written down.

    >>> parse_dtype("float8_e4m3fn").itemsize
    1
    """
    try:
        return _NATIVE.get(name) or _EXTENDED[name]
    except KeyError:
        raise FormatError(
            f"dtype {name!r} is not one that jaxstore writes. "
            f"Those are {', '.join([*_NATIVE, *_EXTENDED])}."
        ) from None


@lru_cache(maxsize=256)
def _plain(dtype: Any) -> DType:
    """The dtype in native byte order, or a refusal."""
    try:
        plain = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        advice = "Store `jax.random.key_data(key)`" if "key<" in str(dtype) else _ADVICE["O"]
        raise FormatError(f"dtype {dtype} cannot be stored. {advice}.") from None
    if plain in (_NATIVE.get(plain.name), _EXTENDED.get(plain.name)):
        return plain
    advice = _ADVICE.get(plain.kind, "Store each field as an array of its own")
    raise FormatError(f"dtype {dtype} cannot be stored. {advice}.")


def _has_nan(plain: DType) -> bool:
    if plain.name in _NATIVE:
        return plain.kind == "f"
    if "int" in plain.name:
        return False
    return bool(np.isnan(np.array(np.nan, np.float32).astype(plain)))
