"""An open HDF5 file, and what a store asks of whoever has it open.

Owned here: what was found in a file while it is open, and the end of a handle that must not be used
any more. The handle of a file of ours is `hdf5_handle`, that of a user's group `hdf5_group_handle`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py

from jaxstore.errors import BusyError
from jaxstore.stores.hdf5_arrays import StoredArray, find_array
from jaxstore.stores.hdf5_names import missing


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file, for as long as it stays open."""

    root: h5py.Group
    mode: str  # as asked for; h5py says "r+" of any file that this process also writes
    file: h5py.File = field(init=False, repr=False)  # HDF5 counts only files that are kept
    arrays: dict[str, StoredArray] = field(default_factory=dict)  # what was looked up in it

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", self.root.file)

    def array(self, name: str, *, location: str, group: str = "") -> StoredArray:
        """The array of a name.

        Args:
            name: Below the group.
            location: Of the group, for messages.
            group: Below the root, "" for the root.

        Raises:
            MissingError: There is none; the message lists those there are.
        """
        key = f"{group}/{name}"
        array = self.arrays.get(key)
        if array is None:
            root = self.root[group] if group else self.root
            array = find_array(root, name, location=location)
            if array is None:
                raise missing(root, name, location=location)
            self.arrays[key] = array
        return array


class Handle(Protocol):
    """Access to the root group of a store."""

    location: str
    path: Path | None  # of the file, if it is ours
    is_writable: bool

    @property
    def is_sound(self) -> bool:
        """Whether no write has failed."""
        ...

    def reading(self) -> Any:
        """Context manager for one read; gives `Opened`."""
        ...

    def writing(self) -> Any:
        """Context manager for one write; an error in it ends the handle."""
        ...

    def release(self) -> None:
        """Flush what was written and let others have the file."""
        ...

    def reader(self) -> Handle:
        """Another handle on the same, for reading."""
        ...

    def close(self) -> None:
        """Let go for good; raises nothing after an error."""
        ...


class Life:
    """Whether a handle may still be used, and the error that forbids it."""

    def __init__(self, location: str, *, is_writable: bool) -> None:
        self.location = location
        self.is_writable = is_writable
        self.is_closed = False
        self.error: BaseException | None = None

    def check(self, *, writing: bool) -> None:
        """Raise BusyError if it may not be used so."""
        if self.is_closed:
            raise BusyError(f"{self.location} is closed. Open it again.")
        if self.error is not None:
            raise BusyError(
                f"{self.location}: an earlier write failed ({self.error}), so HDF5's handle is no "
                "longer sound. Close this store and open it again; what was committed is there."
            )
        if writing and not self.is_writable:
            raise BusyError(f"{self.location} is open for reading. Open it with mode='r+'.")
