"""Having a branch of Icechunk: the commits of two writers conflict, so only one of them goes on.

Owned here: not beginning beside a writer that lives, as far as its commits tell, and saying when
this one ends. That nothing of the other is lost if it is done all the same is `blobs_icechunk`'s.
"""

from __future__ import annotations

from dataclasses import replace

from jaxstore.stores.blobs_icechunk import IcechunkBlobs
from jaxstore.stores.holder import Holder
from jaxstore.stores.zarr3_documents import WRITER, with_attrs
from jaxstore.stores.zarr3_hierarchy import Hierarchy
from jaxstore.stores.zarr3_lease import named_in, outwait


class BranchHold:
    """A branch, as one writer has it."""

    def __init__(self, blobs: IcechunkBlobs, holder: Holder) -> None:
        self._blobs = blobs
        self._root = Hierarchy(blobs, is_writable=False)
        self._holder = holder
        self._is_held = False

    @property
    def is_held(self) -> bool:
        """Whether it was taken and not given back."""
        return self._is_held

    def take(self) -> None:
        """Say who writes, once the writer before has ended or commits no more.

        Raises:
            BusyError: It commits, or did so just now.
        """
        root = self._root.root()
        last = named_in(root, self._blobs.location)
        if last is None or last.nonce != self._holder.nonce:
            outwait(self._root, root, location=self._blobs.location, is_claimed=False)
        self._say(self._holder)
        self._is_held = True

    def check(self) -> None:
        """Nothing to do: a commit after another writer's is refused."""

    def note_array(self, name: str) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Say that nobody writes; what was put and not committed is forgotten."""
        if self._is_held:
            self._is_held = False
            self._blobs.discard()
            last = named_in(self._root.root(), self._blobs.location)
            if last is not None and last.nonce == self._holder.nonce:
                self._say(replace(self._holder, released=True))
                self._blobs.publish("closed")
                self._blobs.discard()

    def _say(self, holder: Holder) -> None:
        self._root.replace("", with_attrs(self._root.root(), {WRITER: holder.to_json()}))
        self._root.forget()
