"""A file of HDF5 for reading, whoever writes it or does not.

Owned here: the choice between HDF5, while nobody writes the file, and `hdf5_live` beside a writer
or after one that was killed; made anew whenever a writer comes, ends or dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Buffer, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxstore.errors import BusyError, FormatError
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.blob_keys import check_key
from jaxstore.stores.hdf5_blobs import get_beside
from jaxstore.stores.hdf5_chunk_log import WriterGone
from jaxstore.stores.hdf5_live import PAUSE_S, LiveFile

# For a file that is locked and has no record beside it: its writer has just made it, or is just
# done with it. Or it is a program that knows nothing of us; then this is how long nobody waits.
_PATIENCE_S = 1.0


class HDF5Reader:
    """A store that only reads one file.

    Args:
        path: Of the file.
        open_plain: Opens it with HDF5; raises BusyError while another process writes it.

    Raises:
        MissingError, FormatError: As `open_plain` does.
        BusyError: It is being written, and cannot be read meanwhile.
    """

    keeps_commits = False

    def __init__(self, path: Path, *, open_plain: Callable[[], Store]) -> None:
        self._path = path
        self._open_plain = open_plain
        self._lock = threading.Lock()  # guards which of the two it is
        self._plain: Store | None = None
        self._live: LiveFile | None = None
        self._is_closed = False
        self._ask(lambda _: None)

    @property
    def location(self) -> str:
        """Path of the file."""
        return str(self._path)

    @property
    def replaces_chunks(self) -> bool:
        """As for every HDF5 file."""
        return False

    @property
    def lease_s(self) -> float | None:
        """None: the lock of the file tells who lives."""
        return None

    def names(self, *, with_labels: bool = False) -> list[str]:
        """Names of all arrays, sorted."""
        return self._ask(lambda file: file.names(with_labels=with_labels))

    def spec(self, name: str) -> ArraySpec:
        """How an array lies here."""
        return self._ask(lambda file: file.spec(name))

    def read(
        self, name: str, region: tuple[slice, ...] = (), *, is_strict: bool = False
    ) -> np.ndarray[Any, Any]:
        """Copy out a region."""
        return self._ask(lambda file: file.read(name, region, is_strict=is_strict))

    def attrs(self, name: str = "") -> dict[str, Json]:
        """Attributes of the root, of a group, or of an array."""
        return self._ask(lambda file: file.attrs(name))

    def committed(self) -> dict[str, Json] | None:
        """The record."""
        return self._ask(lambda file: file.committed())

    def labels(self, name: str) -> list[str] | None:
        """The strings of a coordinate."""
        return self._ask(lambda file: file.labels(name))

    def get_blob(self, name: str, key: str) -> bytes | None:
        """The bytes under a key."""
        self._check()
        check_key(key)
        return get_beside(self._path, key)

    def damage(self, name: str, region: tuple[slice, ...]) -> Iterator[str]:
        """What is wrong with each damaged or absent chunk of a region."""
        # At once: halfway, the one that was asked may have ended.
        yield from self._ask(lambda file: list(file.damage(name, region)))

    def reader(self) -> HDF5Reader:
        """Another one on the same file."""
        self._check()
        return HDF5Reader(self._path, open_plain=self._open_plain)

    def seal(self) -> None:
        """Do nothing: the file is its writer's."""

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._is_closed = True
            self._live = None  # closed when the last thread has read from it
            if self._plain is not None:
                self._plain.close()

    def create(self, spec: ArraySpec) -> None:
        """Refuse."""
        self._refuse()

    def write(self, name: str, start: Sequence[int], values: np.ndarray[Any, Any]) -> None:
        """Refuse."""
        self._refuse()

    def resize(self, name: str, shape: Sequence[int]) -> None:
        """Refuse."""
        self._refuse()

    def set_attrs(self, attrs: Mapping[str, Json], name: str = "") -> None:
        """Refuse."""
        self._refuse()

    def commit(self, record: Mapping[str, Json]) -> None:
        """Refuse."""
        self._refuse()

    def put_blob(self, name: str, key: str, parts: Sequence[Buffer]) -> None:
        """Refuse."""
        self._refuse()

    def delete_blob(self, name: str, key: str) -> None:
        """Refuse."""
        self._refuse()

    def create_labels(self, name: str, labels: Sequence[str]) -> None:
        """Refuse."""
        self._refuse()

    def _ask[T](self, question: Callable[[Any], T]) -> T:
        """The answer of HDF5, or beside a writer that of what it tells."""
        until = time.monotonic() + _PATIENCE_S
        while True:
            live = self._live
            try:
                self._check()
                return question(live or self._opened())
            except WriterGone:
                with self._lock:
                    if self._live is live:
                        self._live = None
            except BusyError as error:
                if live is not None or self._is_closed or not self._begin_live(error, until=until):
                    raise

    def _opened(self) -> Store | LiveFile:
        with self._lock:
            try:
                # HDF5 may not find what counts in a file whose writer was killed.
                self._live = killed = LiveFile(self._path, is_killed=True)
                if all(array.codec for array in killed.description.arrays.values()):
                    return killed
                self._live = None
            except (WriterGone, FormatError):  # what is damaged is told to whoever asks for it
                pass
            if self._plain is None:
                self._plain = self._open_plain()
            return self._plain

    def _begin_live(self, error: BusyError, *, until: float) -> bool:
        """Turn to what a writer tells, or wait a moment for one; False if that was long enough."""
        try:
            live = LiveFile(self._path)
        except WriterGone:
            time.sleep(PAUSE_S)
            return time.monotonic() < until
        except BusyError as busy:
            raise busy from error
        with self._lock:
            self._live = live
        return True

    def _check(self) -> None:
        if self._is_closed:
            raise BusyError(f"{self.location} is closed. Open it again.")

    def _refuse(self) -> NoReturn:
        self._check()
        raise BusyError(f"{self.location} is open for reading. Open it with mode='r+'.")
