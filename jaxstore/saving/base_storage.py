"""What all storages share: which snapshots are kept, and when that is refused.

Owned here: the rule of the stride, the last snapshot, and what a snapshot may be. Where snapshots
go is each storage's own, in `storages`.
"""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from jaxstore.errors import BusyError, MismatchError
from jaxstore.saving.block import HostArray
from jaxstore.saving.snapshot_arrays import Snapshot
from jaxstore.stores.dtypes import stored_dtype
from jaxstore.stores.urls import is_url, redact
from jaxstore.topology import root_only

Where = str | os.PathLike[str]


class BaseStorage(ABC):
    """Keeps every `stride`-th snapshot in memory; a subclass says where they go from there.

    A subclass implements `save` and `values`, and finds the snapshots in `kept`. As a context
    manager a storage is closed, and so saved, at the end of the block, also after an error in it.

    Args:
        stride: A snapshot is kept when its iteration number is a multiple of this.
        save_directory: Where to save; the directories above it are made if absent.
        avoid_race_condition: Under MPI, only rank 0 makes those directories, and the others wait
            until it has. Then all ranks have to construct the storage.
        keep_last: Whether `save` and `close` also keep the snapshot that was given last, if its
            iteration was not kept already. Once kept it stays, whatever follows it. This copies
            every snapshot that is given, and so waits for a device that computes it.

    Raises:
        ValueError: `stride` is not a whole number >= 1.
    """

    def __init__(
        self,
        stride: int,
        save_directory: Where | None = None,
        avoid_race_condition: bool = False,  # noqa: FBT001, FBT002 -- the order is PySDE's
        *,
        keep_last: bool = False,
    ) -> None:
        self.stride = check_count("stride", stride)
        self.save_directory = save_directory
        self.keep_last = keep_last
        self.kept: list[Snapshot] = []  # in memory; a subclass may take away what it has written
        self._like: Snapshot | None = None  # the first, which all have to be like
        self._given_last: Snapshot | None = None  # where it was not kept
        self._kept_iteration = self._last_iteration = -1
        self._is_closed = False
        _make_parent(save_directory, avoid_race_condition=avoid_race_condition)

    def store(self, time: SupportsFloat, data: ArrayLike, iteration_number: SupportsIndex) -> None:
        """Keep a copy of a snapshot, if its iteration is a multiple of the stride.

        Args:
            time: Of the snapshot; kept as float64.
            data: The snapshot, mostly (d_X, N); any shape, as long as all have the same.
            iteration_number: Of the calling loop, >= 0.

        Raises:
            ValueError: The time or the iteration number is not a number of its kind.
            MismatchError: Shape or dtype differ from those of the first snapshot.
            FormatError: Arrays of this dtype cannot be stored.
            BusyError: The storage is closed.
        """
        self._check_open()
        iteration = check_count("iteration_number", iteration_number, least=0)
        is_kept = iteration % self.stride == 0
        if not is_kept and not self.keep_last:
            return
        snapshot = Snapshot(_time(time), _copy(data))
        self._check_like(snapshot)
        if is_kept:
            self.kept.append(snapshot)
            self._given_last, self._kept_iteration = None, iteration
        elif iteration != self._kept_iteration:
            self._given_last, self._last_iteration = snapshot, iteration

    @abstractmethod
    def save(self) -> None:
        """Put everything that was kept on disk."""

    @property
    @abstractmethod
    def values(self) -> tuple[Any, Any]:
        """Numpy-like handles: time (M,) and data (d_X, N, M) of the M snapshots kept so far."""

    def close(self) -> None:
        """Save, then take no more; may be called again. `values` can still be read."""
        if not self._is_closed:
            self.save()
            self._is_closed = True

    def keep_given_last(self) -> None:
        """With `keep_last`, keep the snapshot given last unless it was kept; for `save`."""
        if self._given_last is not None:
            self.kept.append(self._given_last)
            self._given_last, self._kept_iteration = None, self._last_iteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception as second:  # the error of the block is the one to see
            if second is not error:
                error.add_note(f"Closing {self!r} failed too: {type(second).__name__}: {second}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._where()}: {self._what(len(self.kept))}>"

    def _where(self) -> str:
        where = self.save_directory
        return "memory" if where is None else redact(os.fspath(where))

    def _what(self, n_snapshots: int) -> str:
        like = self._like
        of = "" if like is None else f" of {like.data.shape} {like.data.dtype}"
        state = ", closed" if self._is_closed else ""
        return f"{n_snapshots} snapshots{of}, stride {self.stride}{state}"

    def _check_open(self) -> None:
        if self._is_closed:
            raise BusyError(f"{self!r} takes no more snapshots. Make a new storage elsewhere.")

    def _check_like(self, snapshot: Snapshot) -> None:
        if self._like is None:
            stored_dtype(snapshot.data.dtype)  # refuses what no store can hold
            self._like = snapshot
            return
        first, now = self._like.data, snapshot.data
        if (now.shape, now.dtype) != (first.shape, first.dtype):
            raise MismatchError(
                f"this snapshot is {now.shape} {now.dtype}, those in {self._where()} are "
                f"{first.shape} {first.dtype}. Give all in one shape and dtype, or make a new "
                "storage."
            )


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """The value as an int.

    Raises:
        ValueError: It is not a whole number, or smaller than `least`.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return number


def _time(time: SupportsFloat) -> float:
    is_real = np.ndim(time) == 0 and np.asarray(time).dtype.kind not in "cSU"  # type: ignore[arg-type]
    try:
        value = float(time) if is_real else np.nan
    except (TypeError, ValueError):
        value = np.nan
    if np.isnan(value):
        raise ValueError(f"time must be a real number, got {time!r}")
    return value


def _copy(data: ArrayLike) -> HostArray:
    values = np.asarray(data)
    return np.array(values, values.dtype.newbyteorder("="), order="C", copy=True)


def _make_parent(save_directory: Where | None, *, avoid_race_condition: bool) -> None:
    if save_directory is None or is_url(save_directory):
        return
    parent = Path(save_directory).parent

    def make() -> None:
        parent.mkdir(parents=True, exist_ok=True)

    if avoid_race_condition:
        root_only(make)
    else:
        make()
