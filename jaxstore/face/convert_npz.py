"""Storages and plain arrays in npz files, as NumPy and `NumpyStorage` write them.

Owned here: the npz file, read one array at a time and written in pieces. What NumPy leaves out
of a storage lies in an entry of its own, so that it comes back.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.face.convert_arrays import Copy, fit_chunks, pieces, whole
from jaxstore.face.convert_run import Plan
from jaxstore.face.convert_tally import Tally
from jaxstore.saving.npz_file import DTYPES
from jaxstore.saving.snapshot_stream import DATA, TIME, manifest_of, specs_of
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import from_stored, parse_dtype, to_stored
from jaxstore.stores.run_format import MANIFEST

CHUNK_BYTES = 4 * 2**20  # of arrays that had no chunks
FAULTS = (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile)


def is_npz(where: str) -> bool:
    """Whether a place is, or would be, an npz file."""
    return Path(where).suffix.lower() == ".npz"


def is_storage(path: Path) -> bool:
    """Whether an npz file is that of a storage.

    Raises:
        FormatError: It is no npz file.
    """
    with opened(path) as file:
        return {TIME, DATA} <= set(file.files) <= {TIME, DATA, DTYPES, MANIFEST}


def opened(path: Path) -> Any:
    """An npz file, open.

    Raises:
        FormatError: It is none.
    """
    try:
        file = np.load(path, allow_pickle=False)
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(f"{path} is no npz file: {error}. Correct the path.") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise FormatError(f"{path} holds one array, not named ones. Save it by numpy.savez.")
    return file


def array_of(file: Any, name: str, *, path: Path) -> np.ndarray[Any, Any]:
    """One array of an npz file.

    Raises:
        FormatError: It is damaged, or none of numbers.
    """
    try:
        values: np.ndarray[Any, Any] = file[name]
        dtypes = json.loads(str(file[DTYPES])) if DTYPES in file.files else {}
        return from_stored(values, parse_dtype(dtypes[name])) if name in dtypes else values
    except FAULTS as error:
        raise FormatError(
            f"{name!r} in {path} cannot be read: {error}. Save it again as an array of numbers."
        ) from error


def copies_of(path: Path, *, chunk_rows: int | None) -> Iterator[Copy]:
    """The copies of all arrays of an npz file, each of which is in memory while it is copied."""
    with opened(path) as file:
        for name in file.files:
            if name == DTYPES:
                continue
            values = array_of(file, name, path=path)
            values = values.astype(values.dtype.newbyteorder("="), copy=False)
            n = len(values) if values.ndim else 1
            rows = max(1, min(n, CHUNK_BYTES * n // max(1, values.nbytes)))
            chunks = (rows, *(max(n, 1) for n in values.shape[1:])) if values.ndim else ()
            last = name.rpartition("/")[2]
            dims = tuple(f"{last}_dim_{axis}" for axis in range(values.ndim))
            spec = ArraySpec(name, values.shape, chunks, values.dtype, dims)
            yield whole(fit_chunks(spec, chunk_rows=chunk_rows), values.__getitem__)


def plan_storage(path: Path, tally: Tally) -> tuple[Plan, Json]:
    """What of the npz file of a storage is copied, and its manifest."""
    with opened(path) as file:
        time, data = (array_of(file, name, path=path) for name in (TIME, DATA))
        known = json.loads(str(file[MANIFEST])) if MANIFEST in file.files else None
    if time.ndim != 1 or not data.ndim or data.shape[-1] != len(time):
        raise FormatError(
            f"{path}: time has shape {time.shape}, data {data.shape}; the last axis of data must "
            "be that of time. Rename one of them to convert them as plain arrays."
        )
    rows = np.moveaxis(data, -1, 0)
    if known is None:
        n_rows = max(1, min(len(rows), CHUNK_BYTES // max(1, rows[:1].nbytes)))
        known = {"manifest": manifest_of(stride=1, chunk_size=n_rows), "record": None}
        tally.notes.append(
            "an npz tells neither the stride nor when it was made: the copy says stride 1 and now"
        )
    manifest = known["manifest"]
    copies = [
        whole(spec_with(spec, values), values.__getitem__)
        for spec, values in zip(
            specs_of(rows, chunk_size=manifest["chunk_size"]),
            (np.asarray(time, np.float64), rows),
            strict=True,
        )
    ]
    record = known["record"] or {
        "snapshots": len(time),
        "state": "complete",
        "committed_at": manifest["created_at"],
    }
    return Plan(tuple(copies) if len(time) else (), record), manifest


def spec_with(spec: ArraySpec, values: np.ndarray[Any, Any]) -> ArraySpec:
    """The spec with the shape of its values."""
    return ArraySpec(spec.name, values.shape, spec.chunks, spec.dtype, spec.dims, spec.attrs)


def write_storage(path: Path, plan: Plan, manifest: Json, tally: Tally) -> None:
    """Write a storage as `NumpyStorage` would: time (M,), data (*inner, M); piece by piece."""
    dtypes: dict[str, str] = {}
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as file:
        for copy in plan.copies:
            spec = copy.spec
            stored = to_stored(np.empty(0, spec.dtype)).dtype
            if stored != spec.dtype:
                dtypes[spec.name] = spec.dtype.name
            with file.open(f"{spec.name}.npy", "w", force_zip64=True) as member:
                write_transposed(member, copy, stored, tally)
        texts = {MANIFEST: json.dumps({"manifest": manifest, "record": plan.record})}
        if dtypes:
            texts[DTYPES] = json.dumps(dtypes)
        if not plan.copies:
            empty = np.empty(0)
            for name in (TIME, DATA):
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, empty, allow_pickle=False)
        for name, text in texts.items():
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(text), allow_pickle=False)
    tally.n_arrays += len(plan.copies)


def write_transposed(member: IO[bytes], copy: Copy, stored: np.dtype[Any], tally: Tally) -> None:
    """Write an array of rows with the axis of rows last.

    In Fortran's order the last axis is the slowest, so rows can be written as they come.
    """
    n_rows, *inner = copy.spec.shape
    header = {
        "descr": np.lib.format.dtype_to_descr(stored),
        "fortran_order": True,
        "shape": (*inner, n_rows),
    }
    np.lib.format.write_array_header_2_0(member, header)
    # Whole rows: each is one column of what a reader sees.
    rows_spec = ArraySpec(
        copy.spec.name,
        copy.spec.shape,
        (copy.spec.chunks[0], *(max(n, 1) for n in inner)),
        copy.spec.dtype,
        copy.spec.dims,
    )
    for region in copy.regions:
        for part in pieces(region, rows_spec):
            values = to_stored(np.asarray(copy.read(part)))
            member.write(np.moveaxis(values, 0, -1).tobytes(order="F"))
            tally.add(values.nbytes)
