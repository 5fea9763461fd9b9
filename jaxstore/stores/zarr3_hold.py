"""One writer at a time: who has a Zarr store, and how another is kept out.

Owned here: having files by a lock on their folder. Object stores have no locks; `zarr3_lease` is
for them, and `zarr3_branch` for Icechunk. Either way the root document names the writer, for the
messages to others.
"""

from __future__ import annotations

from typing import Protocol

from jaxstore.errors import BusyError
from jaxstore.stores.blobs import Blobs, FileBlobs
from jaxstore.stores.blobs_icechunk import IcechunkBlobs
from jaxstore.stores.folder_lock import FolderLock
from jaxstore.stores.holder import Holder
from jaxstore.stores.zarr3_branch import BranchHold
from jaxstore.stores.zarr3_documents import WRITER, Json
from jaxstore.stores.zarr3_hierarchy import Hierarchy
from jaxstore.stores.zarr3_lease import Lease


class Hold(Protocol):
    """What a writer has of a store, and others have not."""

    @property
    def is_held(self) -> bool:
        """Whether it was taken and not given back."""
        ...

    def take(self) -> None:
        """Have it from now on. What was known of the documents before is out of date.

        Raises:
            BusyError: Another has it; nothing was changed.
        """
        ...

    def check(self) -> None:
        """Refuse to go on in a store that others took over, or removed.

        Raises:
            BusyError: It was taken over.
            MissingError: It was removed.
        """
        ...

    def note_array(self, name: str) -> None:
        """Hear of an array that was made."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


def hold_on(blobs: Blobs, tree: Hierarchy, holder: Holder, *, is_guest: bool) -> Hold:
    """What keeps others out at a place; not taken yet."""
    if is_guest:
        return GuestHold(blobs)
    if isinstance(blobs, FileBlobs):
        return FolderHold(blobs, tree, holder)
    if isinstance(blobs, IcechunkBlobs):
        return BranchHold(blobs, holder)
    return Lease(blobs, tree, holder)


class FolderHold:
    """The folder of a store, by the operating system's lock on it."""

    def __init__(self, blobs: FileBlobs, tree: Hierarchy, holder: Holder) -> None:
        self._blobs = blobs
        self._tree = tree
        self._holder = holder
        self._lock: FolderLock | None = None

    @property
    def is_held(self) -> bool:
        """Whether it was taken and not given back; not in a forked child."""
        return self._lock is not None and self._lock.is_held

    def take(self) -> None:
        """Lock the folder, and say who has it."""
        try:
            self._lock = FolderLock(str(self._blobs.root))
        except BlockingIOError:
            raise self._busy() from None
        try:
            document = self._tree.find("") or self._tree.root()
            attrs = document.get("attributes", {})
            if attrs.get(WRITER) != self._holder.to_json():
                attrs = {**attrs, WRITER: self._holder.to_json()}
                self._tree.replace("", {**document, "attributes": attrs})
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Refuse to go on in a folder that was removed or replaced."""
        if self._lock is not None:
            self._lock.check()

    def note_array(self, name: str) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.free()
            self._lock = None

    def _busy(self) -> BusyError:
        found: Json = (self._tree.find("") or {}).get("attributes", {}).get(WRITER)
        holder = Holder.from_json(found, where=self._blobs.location)
        # A writer that has only just taken the folder may not have said so yet.
        named = holder is not None and not holder.is_gone
        return BusyError(
            f"{self._blobs.location} is written by {holder if named else 'another process'}. "
            "Close that writer, wait until it ends, or open with mode='r' to read beside it."
        )


class GuestHold:
    """Nothing: a guest writes chunks, and arrays of its own, beside the writer that has a store."""

    def __init__(self, blobs: Blobs) -> None:
        self._location = blobs.location
        self._fresh = Hierarchy(blobs, is_writable=False)  # as the writer leaves it
        self._host: str | None = None  # the opening by which the writer has it

    @property
    def is_held(self) -> bool:
        """Whether there is a writer to be beside."""
        return self._host is not None

    def take(self) -> None:
        """Note beside whom."""
        self._host = self._named()

    def check(self) -> None:
        """Refuse to go on beside another writer than at first."""
        if self._host != self._named():
            raise BusyError(
                f"{self._location} was taken over by another writer than the one that this process "
                "writes for. What was marked stays, this process adds nothing to it. End it."
            )

    def note_array(self, name: str) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Nothing to do: what was never had is not given back."""

    def _named(self) -> str:
        found: Json = self._fresh.root().get("attributes", {}).get(WRITER)
        holder = Holder.from_json(found, where=self._location)
        return holder.nonce if holder else ""
