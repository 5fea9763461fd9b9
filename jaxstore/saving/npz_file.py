"""A compressed npz file of arrays, replaced whole by the one who made it.

Owned here: the names in the file, and that nobody else's file is overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from jaxstore.errors import ExistsError, FormatError
from jaxstore.saving.block import HostArray
from jaxstore.stores.dtypes import from_stored, parse_dtype, to_stored

DTYPES = "jaxstore_dtypes"  # those NumPy lacks, whose bits are saved


class NpzFile:
    """A file that this object writes, and replaces when asked again.

    Args:
        path: `.npz` is added unless it ends so.

    Raises:
        ExistsError: The file is there already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
        self._is_ours = False
        if self.path.exists():
            raise self._exists()

    def replace(self, named: Mapping[str, HostArray]) -> None:
        """Write arrays, those of dtypes that NumPy lacks as bits; readers see the old or new file.

        Raises:
            ExistsError: Someone else made the file meanwhile.
        """
        arrays: dict[str, Any] = {name: to_stored(values) for name, values in named.items()}
        bits = {n: v.dtype.name for n, v in named.items() if v.dtype != arrays[n].dtype}
        if bits:
            arrays[DTYPES] = np.asarray(json.dumps(bits))
        partial = self.path.with_name(f"{self.path.name}.{uuid4().hex}.partial")
        try:
            with partial.open("xb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            if not self._is_ours:
                self._claim()
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)

    def _claim(self) -> None:
        # Only one can make the file; a link would do it in one step, where there are links.
        try:
            self.path.open("xb").close()
        except FileExistsError:
            raise self._exists() from None
        self._is_ours = True

    def _exists(self) -> ExistsError:
        return ExistsError(
            f"{self.path} is already there and will not be overwritten. Choose another path, or "
            "remove it."
        )


def read_npz(path: Path) -> tuple[HostArray, HostArray]:
    """Time and data of a file that `NpzFile` wrote.

    Raises:
        FormatError: It is another file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            time, data = file["time"], file["data"]
            dtypes = json.loads(str(file[DTYPES])) if DTYPES in file else {}
    except (ValueError, KeyError, OSError) as error:
        raise FormatError(
            f"{path} is not an npz file with time and data, as NumpyStorage writes it: {error}. "
            "Give the path of one, or restore it from a copy."
        ) from error
    return time, from_stored(data, parse_dtype(dtypes["data"])) if dtypes else data
