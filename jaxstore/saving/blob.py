"""A blob: arrays and a little JSON as one piece of bytes, without pickle.

Owned here: the bytes, an uncompressed npz, and that damaged or hostile ones are refused. What lies
in it is told by `checkpoint` and `tail`, where it lies by a store.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.saving.block import HostArray
from jaxstore.stores.base import Json
from jaxstore.stores.dtypes import from_stored, parse_dtype, to_stored

_META = "meta"


def pack(meta: Mapping[str, Json], arrays: list[HostArray]) -> bytes:
    """Arrays of any dtype that stores take, and JSON, as bytes."""
    named: dict[str, Any] = {f"array_{i}": to_stored(array) for i, array in enumerate(arrays)}
    text = json.dumps({**meta, "dtypes": [array.dtype.name for array in arrays]})
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **named, **{_META: np.frombuffer(text.encode(), np.uint8)})
    return file.getvalue()  # which copies nothing


def unpack(data: bytes, *, what: str) -> tuple[dict[str, Json], list[HostArray]]:
    """What `pack` was given.

    Args:
        data: The bytes, perhaps damaged.
        what: They are, for messages.

    Raises:
        FormatError: They are not whole.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            if any(m.compress_type != zipfile.ZIP_STORED for m in file.infolist()):
                raise ValueError("it is compressed")  # ours are not; it may be a bomb
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            meta = json.loads(found[_META].tobytes())
            arrays = [
                from_stored(found[f"array_{i}"], parse_dtype(name))
                for i, name in enumerate(meta.pop("dtypes"))
            ]
    # zipfile and NumPy raise many kinds on damaged bytes, and nothing else can go wrong here.
    except Exception as error:
        raise FormatError(
            f"{what} is damaged: {error!r}. Restore it from a copy, or go on from an earlier one."
        ) from error
    return meta, arrays
