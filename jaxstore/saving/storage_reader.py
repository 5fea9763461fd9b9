"""Opening what storages have saved: of one process, or of all ranks as one ensemble.

Owned here: how many snapshots count, which directories belong to one ensemble, and what its parts
must have in common. Nothing is written here.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxstore.card import card
from jaxstore.errors import MismatchError, MissingError
from jaxstore.saving.base_storage import Where
from jaxstore.saving.npz_file import read_npz
from jaxstore.saving.snapshot_arrays import EnsembleArray, no_snapshots
from jaxstore.saving.snapshot_stream import (
    DATA,
    check_manifest,
    parse_record,
    snapshot_arrays,
    tail_from_json,
)
from jaxstore.stores.base import Store
from jaxstore.stores.location import open_store
from jaxstore.stores.run_format import MANIFEST
from jaxstore.stores.urls import is_url, redact
from jaxstore.topology import place


@dataclass(frozen=True, slots=True)
class StoredSnapshots:
    """What a storage has saved, as of when it was opened; reads what you index."""

    location: str
    time: Any  # (M,)
    data: Any  # (d_X, N, M)
    is_complete: bool  # whether it was saved after its last snapshot; a killed one was not
    members: tuple[StoredSnapshots, ...]  # of an ensemble, in the order of ranks
    stores: tuple[Store, ...]  # to close

    @property
    def values(self) -> tuple[Any, Any]:
        """Numpy-like handles: time (M,) and data (d_X, N, M)."""
        return self.time, self.data

    def close(self) -> None:
        """Let go of the files; the handles can be read no more."""
        for store in (*self.stores, *(s for member in self.members for s in member.stores)):
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        of = f" of {len(self.members)} ranks" if self.members else ""
        state = "complete" if self.is_complete else "running or killed"
        what = f"{len(self.time)} snapshots of {self.data.shape[:-1]} {self.data.dtype}"
        return f"<StoredSnapshots {self.location}{of}: {what}, {state}>"

    def _repr_html_(self) -> str:
        facts = {
            "state": "complete" if self.is_complete else "running or killed",
            "ranks": f"{len(self.members)}" * bool(self.members),
        }
        arrays = [(n, a.shape, a.dtype) for n, a in (("time", self.time), ("data", self.data))]
        return card(f"snapshots at {self.location}", facts, arrays)


def open_storage(path: Where) -> StoredSnapshots:
    """Open what a storage has saved, read-only, also after it was killed.

    Args:
        path: Of a `ZarrStorage` or `HDF5Storage`, or the npz file of a `NumpyStorage`.

    Raises:
        MissingError: Nothing is there.
        FormatError: It is not the result of a storage.
        BusyError: It is an HDF5 file that another process is writing.

    >>> import tempfile
    >>> from jaxstore.saving.storages import ZarrStorage
    >>> path = tempfile.mkdtemp() + "/paths.zarr"
    >>> with ZarrStorage(1, 4, path) as storage:
    ...     for i in range(6):
    ...         storage.store(0.5 * i, np.full((2, 5), i), i)
    >>> with open_storage(path) as stored:
    ...     stored.time[:], stored.data[1, :2, -1]
    (array([0. , 0.5, 1. , 1.5, 2. , 2.5]), array([5, 5]))
    """
    if not is_url(path) and Path(path).suffix == ".npz" and Path(path).is_file():
        return StoredSnapshots(os.fspath(path), *read_npz(Path(path)), True, (), ())
    store = open_store(path)
    check_manifest(store.attrs().get(MANIFEST), location=store.location)
    record = parse_record(store.committed(), location=store.location)
    time: Any = np.empty(0)
    data: Any = no_snapshots()
    n_stored, tail = record.n_snapshots, record.tail
    if n_stored or tail:
        spec = store.spec(DATA)
        like: dict[str, Any] = {"inner": spec.shape[1:], "dtype": spec.dtype}
        rest = tail_from_json(tail, **like) if tail else ()
        time, data = snapshot_arrays(store, **like, n_stored=n_stored, rest=rest)
    is_complete = record.state == "complete"
    return StoredSnapshots(store.location, time, data, is_complete, (), (store,))


def rank_directory(path: Where, *, rank: int | None = None) -> Any:
    """A path of its own for each rank: `stem_p{rank}suffix`.

    Args:
        path: A path, or a URL, which stays one.
        rank: None takes that of this process.

    >>> rank_directory("results/paths.zarr", rank=3).as_posix()
    'results/paths_p3.zarr'
    """
    rank = place().rank if rank is None else rank
    folder, slash, name = os.fspath(path).rpartition("/")
    named = Path(name)
    joined = f"{folder}{slash}{named.stem}_p{rank}{named.suffix}"
    return joined if is_url(path) else Path(joined)


def open_ensemble(
    paths: Where | Sequence[Where], *, axis: int = -2, only_common: bool = False
) -> StoredSnapshots:
    """Open what the ranks of one simulation have saved as one array, without copying.

    Args:
        paths: The path that `rank_directory` was given, a pattern with `*`, or a list in the order
            of ranks; URLs only in a list.
        axis: Of `data`, along which the ranks follow one another; trajectories by default.
        only_common: Take those first snapshots that all ranks have, where some were killed.

    Raises:
        MissingError: There is no such rank, or one is missing in between.
        MismatchError: The ranks have different snapshots, times, shapes or dtypes.

    >>> import numpy as np, tempfile, jaxstore as js
    >>> path = tempfile.mkdtemp() + "/paths.zarr"
    >>> for rank in range(2):
    ...     with js.ZarrStorage(1, 4, js.rank_directory(path, rank=rank)) as storage:
    ...         for i in range(3):
    ...             storage.store(0.1 * i, np.full((2, 5), rank), i)
    >>> with js.open_ensemble(path) as ensemble:
    ...     ensemble.data.shape
    (2, 10, 3)
    """
    members = tuple(open_storage(path) for path in member_paths(paths))
    try:
        time = _common_time(members, only_common=only_common)
        axis = _check_alike(members, axis=axis)
    except BaseException:
        for member in members:
            member.close()
        raise
    data = EnsembleArray(tuple(member.data for member in members), axis=axis, n_snapshots=len(time))
    location = f"{members[0].location} ... {members[-1].location}"
    is_complete = all(member.is_complete for member in members)
    return StoredSnapshots(location, time, data, is_complete, members, ())


def member_paths(paths: Where | Sequence[Where]) -> list[Where]:
    """Paths of all ranks in the order of ranks; see `open_ensemble`.

    Raises:
        MissingError: There is none, or one is missing in between.
    """
    if not isinstance(paths, str | os.PathLike):
        if not paths:
            raise MissingError("open_ensemble got an empty list of paths. Give one per rank.")
        return list(paths)
    if is_url(paths):
        raise ValueError(f"{redact(str(paths))}: URLs cannot be searched. Give a list of them.")
    text = os.fspath(paths)
    if glob.has_magic(text):
        found = sorted(glob.glob(text), key=_in_order)
        if not found:
            raise MissingError(f"nothing matches {text}. Correct the pattern.")
        return list(found)
    path = Path(text)
    name = re.compile(re.escape(path.stem) + r"_p(\d+)" + re.escape(path.suffix))
    entries = list(path.parent.iterdir()) if path.parent.is_dir() else []
    ranks = {int(match[1]): entry for entry in entries if (match := name.fullmatch(entry.name))}
    wanted = range(max(ranks, default=0) + 1)
    if missing := [rank for rank in wanted if rank not in ranks]:
        raise MissingError(
            f"no results of ranks {missing} beside {text}, only of {sorted(ranks)}. Correct the "
            "path, or give a list of those to join."
        )
    return [ranks[rank] for rank in wanted]


def _in_order(path: str) -> list[Any]:
    """A sort key by which p10 comes after p9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _common_time(
    members: tuple[StoredSnapshots, ...], *, only_common: bool
) -> np.ndarray[Any, Any]:
    """The times that all members have, read into memory since they are few."""
    counts = [len(member.time) for member in members]
    if len(set(counts)) > 1 and not only_common:
        raise MismatchError(
            f"the ranks have different numbers of snapshots, {counts}: some were killed or are "
            f"still running. Pass only_common=True to take the first {min(counts)} of each."
        )
    times = [np.asarray(member.time[: min(counts)]) for member in members]
    for member, time in zip(members, times, strict=True):
        if not np.array_equal(time, times[0]):
            at = int(np.argmax(time != times[0]))
            raise MismatchError(
                f"snapshot {at} is of time {time[at]} in {member.location}, and of {times[0][at]} "
                f"in {members[0].location}. Only results of one time grid can be joined."
            )
    return times[0]


def _check_alike(members: tuple[StoredSnapshots, ...], *, axis: int) -> int:
    """The axis counted from the front, after checking that the members fit along it."""
    first = members[0].data
    if not -first.ndim <= axis < first.ndim or axis in (-1, first.ndim - 1):
        raise ValueError(f"axis {axis} is not one of a snapshot's, {first.shape[:-1]}")
    axis %= first.ndim
    for member in members:
        shapes = [(*d.shape[:axis], *d.shape[axis + 1 : -1]) for d in (first, member.data)]
        if (
            first.ndim != member.data.ndim
            or shapes[0] != shapes[1]
            or first.dtype != (member.data.dtype)
        ):
            raise MismatchError(
                f"snapshots are {member.data.shape[:-1]} {member.data.dtype} in {member.location}, "
                f"and {first.shape[:-1]} {first.dtype} in {members[0].location}. Only the axis "
                f"along which they are joined, {axis}, may differ."
            )
    return axis
