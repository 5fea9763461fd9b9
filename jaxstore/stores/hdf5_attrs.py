"""JSON values as HDF5 attributes, readable to foreign tools, and back as equal values.

Owned here: which values HDF5 holds natively, and what stands for the others. Text, booleans,
numbers of 64 bits and floats are native; lists, dicts, None, larger integers, and text that HDF5
would cut short, are `"json:"` followed by their JSON. Text is of variable length, so the bytes
lie in a heap of the file and the 64 kB limit of an attribute does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from jaxstore.errors import FormatError

DTYPE = "jaxstore_dtype"  # name of a dtype that HDF5 does not know, beside its bits
DIM = "jaxstore_dim"  # true name of a dimension whose name is taken in its group
COMMIT = "jaxstore_commit"  # the record of a sealed store, at its root
BLOB = "jaxstore_blob"  # marks a dataset of bytes that is no array
WRITTEN = "jaxstore_written"  # at the root: see `hdf5_journal`
_JSON = "json:"
_RESERVED = {
    *(DTYPE, DIM, COMMIT, BLOB, WRITTEN),
    # Written by HDF5's dimension scales and by netCDF.
    *("CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS"),
    *("_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "_nc3_strict"),
}


def encode(value: Any) -> Any:
    """A JSON value as what h5py stores natively, else as JSON text.

    >>> encode("plain"), encode(2.5), encode([1, None]), encode("json:")
    ('plain', 2.5, 'json:[1, null]', 'json:"json:"')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, str) and _is_plain(value):
        return value
    return _JSON + json.dumps(value)


def decode(value: Any) -> Any:
    """What h5py read from an attribute as a JSON value; foreign arrays become lists.

    >>> decode(np.int64(3)), decode('json:{"a": 1}'), decode(np.arange(2))
    (3, {'a': 1}, [0, 1])
    """
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, str) and value.startswith(_JSON):
        return json.loads(value.removeprefix(_JSON))
    return value


def is_text(text: str) -> bool:
    """Whether HDF5 keeps a text whole: it ends it at NUL, and takes no lone surrogates."""
    return "\0" not in text and text.encode(errors="ignore").decode() == text


def encode_all(attrs: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Attributes of one array or group, ready for h5py.

    Raises:
        FormatError: HDF5 does not take a key, or it, netCDF or jaxstore uses the key itself.
    """
    if wrong := [key for key in attrs if not key or not is_text(key)]:
        raise FormatError(
            f"{name!r}: HDF5 takes no attribute with the key {wrong[0]!r}. Rename it."
        )
    if reserved := sorted(_RESERVED & attrs.keys()):
        raise FormatError(
            f"{name!r}: {', '.join(reserved)} would hide what HDF5, netCDF or jaxstore itself "
            "keeps under that name. Choose another key."
        )
    return {key: encode(value) for key, value in attrs.items()}


def read_all(holder: Any) -> dict[str, Any]:
    """Attributes of an open dataset or group, less those that the format itself uses."""
    return {key: decode(value) for key, value in holder.attrs.items() if key not in _RESERVED}


def _is_plain(text: str) -> bool:
    return is_text(text) and not text.startswith(_JSON)
