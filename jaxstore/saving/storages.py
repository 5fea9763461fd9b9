"""Storages for loops driven from Python: snapshots of an ensemble, with the time of each.

Owned here: where snapshots go, and when. Which are kept is `base_storage`, how they lie in a store
`snapshot_stream`, opening them elsewhere `storage_reader`. Loops inside `jit` have collectors.

The interface is that of PySDE's storages: `store` at every iteration of a loop, `save` at its end,
`values` at any time.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from jaxstore.errors import ExistsError
from jaxstore.saving.base_storage import BaseStorage, Where, check_count
from jaxstore.saving.block import HostArray
from jaxstore.saving.npz_file import NpzFile
from jaxstore.saving.snapshot_arrays import no_snapshots
from jaxstore.saving.snapshot_stream import Rows, SnapshotStream
from jaxstore.saving.writer import QUEUE_BYTES
from jaxstore.stores.base import Store
from jaxstore.topology import is_launched


class NumpyStorage(BaseStorage):
    """Keeps snapshots in memory; `save` writes them all to a compressed npz file.

    Args:
        stride: As for `BaseStorage`, and so are all other arguments.
        save_directory: Path of the file; `.npz` is added unless it ends so, as `numpy.savez` does.
            None keeps the snapshots in memory alone.

    Raises:
        ExistsError: The file is there already; it stays as it is.

    >>> storage = NumpyStorage(stride=10)
    >>> for i in range(31):
    ...     storage.store(0.1 * i, np.full((2, 5), i), i)
    >>> time, data = storage.values
    >>> time.shape, data.shape, data[0, 0]
    ((4,), (2, 5, 4), array([ 0, 10, 20, 30]))
    """

    def __init__(
        self,
        stride: int,
        save_directory: Where | None = None,
        avoid_race_condition: bool = False,  # noqa: FBT001, FBT002 -- the order is PySDE's
        *,
        keep_last: bool = False,
    ) -> None:
        super().__init__(stride, save_directory, avoid_race_condition, keep_last=keep_last)
        self._file = None if save_directory is None else NpzFile(Path(save_directory))

    @property
    def values(self) -> tuple[HostArray, HostArray]:
        """Arrays of their own: time (M,) and data (d_X, N, M)."""
        times = np.array([snapshot.time for snapshot in self.kept], np.float64)
        if not self.kept:
            return times, no_snapshots()
        return times, np.moveaxis(np.stack([snapshot.data for snapshot in self.kept]), 0, -1)

    def save(self) -> None:
        """Write all snapshots as `time` (M,) and `data` (d_X, N, M), in one step for readers.

        A later call replaces the file with one that holds more.

        Raises:
            ValueError: No `save_directory` was given.
            ExistsError: Someone else wrote the file meanwhile.
        """
        if self._is_closed:
            return
        if self._file is None:
            raise ValueError("this NumpyStorage has no save_directory. Give one, or use `values`.")
        self.keep_given_last()
        time, data = self.values
        self._file.replace({"time": time, "data": data})

    def close(self) -> None:
        """Save if there is a `save_directory`, then take no more; may be called again."""
        if self._file is None:
            self.keep_given_last()
            self._is_closed = True
        else:
            super().close()


class StreamingStorage(BaseStorage):
    """Writes each chunk as soon as it is full, on a thread; `ZarrStorage` and `HDF5Storage`.

    What does not fill a chunk yet is in memory until `save`. A process that is killed, or ends
    without `save`, loses that and what waits for the writer; all else is exact, and
    `open_storage` tells how much it is.

    Args:
        stride: As for `BaseStorage`, and so are `avoid_race_condition` and `keep_last`.
        chunk_size: Snapshots per chunk.
        save_directory: Path of the store, where nothing is yet.
        compression: "zstd", "lz4" or None.
        queue_bytes: What may wait for the writer at most; a full queue holds `store` up.

    Raises:
        ExistsError: Something is there; it stays as it is.
        ValueError: `stride` or `chunk_size` is not a whole number >= 1.
    """

    # Whether the store puts a new chunk in an old one's place in one step, whatever happens.
    replaces_whole: ClassVar[bool] = False

    def __init__(
        self,
        stride: int,
        chunk_size: int,
        save_directory: Where,
        avoid_race_condition: bool = False,  # noqa: FBT001, FBT002 -- the order is PySDE's
        *,
        keep_last: bool = False,
        compression: str | None = "zstd",
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.chunk_size = check_count("chunk_size", chunk_size)
        super().__init__(stride, save_directory, avoid_race_condition, keep_last=keep_last)
        try:
            store = self.create_store(compression)
        except ExistsError as error:
            if is_launched():
                error.add_note("Under MPI give each rank a path of its own: rank_directory(path).")
            raise
        self._stream = SnapshotStream(
            store,
            stride=self.stride,
            chunk_size=self.chunk_size,
            queue_bytes=queue_bytes,
            replaces_whole=self.replaces_whole,
        )
        self._n_flushed = 0  # in whole chunks; `kept` follows them
        self._n_saved = -1  # at the last `save`

    @abstractmethod
    def create_store(self, compression: str | None) -> Store:
        """Make the store at `save_directory`."""

    def store(self, time: SupportsFloat, data: ArrayLike, iteration_number: SupportsIndex) -> None:
        """As `BaseStorage.store`; a full chunk goes to the writer.

        Raises:
            OSError: The disk failed at an earlier chunk; so too other errors of the writer.
        """
        self._stream.check()
        super().store(time, data, iteration_number)
        self._flush()

    @property
    def values(self) -> tuple[Any, Any]:
        """Handles on time (M,) and data (d_X, N, M) as of now; they read what you index.

        Waits for the writer. The handles stay valid after `close`, and do not grow.
        """
        if self._like is None:
            self._stream.check()
            return np.empty(0), no_snapshots()
        return self._stream.arrays(self._n_flushed, tuple(self.kept), self._like)

    def save(self) -> None:
        """Write what is in memory and wait until all is on disk; snapshots may follow.

        The file is then complete for other programs. A last chunk that is short is written again,
        whole, when it is full.
        """
        if self._is_closed:
            return
        self.keep_given_last()
        self._flush()
        if self._n_saved != (n_saved := self._n_flushed + len(self.kept)):
            self._stream.put(Rows(self._n_flushed, tuple(self.kept), is_last=True))
        self._stream.wait()
        self._n_saved = n_saved

    def close(self) -> None:
        """Save, let go of the file, then take no more; may be called again."""
        if self._is_closed:
            return
        try:
            self.save()
        finally:
            self._is_closed = True
            self._stream.close()

    def _flush(self) -> None:
        while len(self.kept) >= self.chunk_size:
            chunk = tuple(self.kept[: self.chunk_size])
            self._stream.put(Rows(self._n_flushed, chunk, is_last=False))
            # In this order Ctrl-C in between repeats a chunk and loses none.
            self._n_flushed += self.chunk_size
            del self.kept[: self.chunk_size]

    def __repr__(self) -> str:
        what = self._what(self._n_flushed + len(self.kept))
        return f"<{type(self).__name__} {self._where()}: {what}, chunks of {self.chunk_size}>"


class ZarrStorage(StreamingStorage):
    """Streams snapshots into a Zarr v3 store; see `StreamingStorage` for arguments and errors.

    `save_directory` may also be a URL such as "s3://bucket/paths.zarr".

    >>> import tempfile
    >>> with ZarrStorage(2, 4, tempfile.mkdtemp() + "/paths.zarr") as storage:
    ...     for i in range(21):
    ...         storage.store(0.1 * i, np.full((2, 5), i), i)
    >>> time, data = storage.values
    >>> time.shape, data.shape, data[0, 0, -3:]
    ((11,), (2, 5, 11), array([16, 18, 20]))
    """

    replaces_whole = True

    def create_store(self, compression: str | None) -> Store:
        """Make the Zarr group."""
        from jaxstore.stores.zarr3 import ZarrStore

        return ZarrStore.new(self.save_directory, compression=compression)


class HDF5Storage(StreamingStorage):
    """Streams snapshots into an HDF5 file; see `StreamingStorage` for arguments and errors.

    `save_directory` is the path of the file. Another process can open it after `save`.

    >>> import tempfile
    >>> with HDF5Storage(2, 4, tempfile.mkdtemp() + "/paths.h5", keep_last=True) as storage:
    ...     for i in range(20):
    ...         storage.store(0.1 * i, np.full((2, 5), i), i)
    >>> time, data = storage.values
    >>> time.shape, data.shape, data[0, 0, -3:]
    ((11,), (2, 5, 11), array([16, 18, 19]))
    """

    def create_store(self, compression: str | None) -> Store:
        """Make the HDF5 file."""
        from jaxstore.stores.hdf5 import HDF5Store

        assert self.save_directory is not None
        return HDF5Store.new(self.save_directory, compression=compression)
