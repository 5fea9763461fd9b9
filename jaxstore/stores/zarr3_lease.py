"""Having a Zarr store where there are no locks: a writer shows that it lives by its commits.

Owned here: when a writer counts as dead, and that one process alone takes a store over from it.
Who takes over makes a claim, an object that can be made once; the writer before looks for that
object ahead of each commit. Between its look and its commit lies one request: only a writer that
stops there for longer than a lease, and then goes on, can still replace the record, until the new
writer's next commit.
"""

from __future__ import annotations

import time
from dataclasses import replace

from jaxstore.errors import BusyError, FormatError
from jaxstore.stores.blobs import Blobs, FileBlobs
from jaxstore.stores.blobs_icechunk import IcechunkBlobs
from jaxstore.stores.holder import Holder
from jaxstore.stores.zarr3_documents import WRITER, Json, is_array, with_attrs
from jaxstore.stores.zarr3_hierarchy import Hierarchy, key_of

LEASE_S = 20.0  # three commits of a writer that commits in time, and a slow server between them
_LOOKS = 20  # at the root document in that time


def lease_of(blobs: Blobs) -> float | None:
    """Seconds within which a living writer must commit; None where that is not asked of it."""
    return None if isinstance(blobs, (FileBlobs, IcechunkBlobs)) else LEASE_S


def named_in(root: Json, location: str) -> Holder | None:
    """The writer that a root document names."""
    return Holder.from_json(root.get("attributes", {}).get(WRITER), where=location)


def outwait(fresh: Hierarchy, root: Json, *, location: str, is_claimed: bool) -> Holder | None:
    """The writer that a root document names, once it is gone.

    Args:
        fresh: The documents as others leave them.
        root: As last seen.
        location: For messages.
        is_claimed: Whether there is one that the document does not name yet.

    Raises:
        BusyError: The document changes within a lease, so somebody writes.
    """
    holder, until = named_in(root, location), time.monotonic() + LEASE_S
    while is_claimed or not (holder is None or holder.is_gone):
        if time.monotonic() > until:
            break
        time.sleep(LEASE_S / _LOOKS)
        now = fresh.root()
        if now == root:
            continue
        root, holder, is_claimed = now, named_in(now, location), False
        if holder is None or not holder.released:
            raise BusyError(
                f"{location} is written by {holder or 'another program'}. Close that writer, wait "
                "until it ends, or open with mode='r' to read beside it."
            )
    return holder


class Lease:
    """A store in an object store, as one writer has it."""

    def __init__(self, blobs: Blobs, tree: Hierarchy, holder: Holder) -> None:
        self._blobs = blobs
        self._tree = tree
        self._fresh = Hierarchy(blobs, is_writable=False)  # as others left it
        self._holder = holder
        self._is_held = False
        self._lost = ""  # by whom it was taken over

    @property
    def is_held(self) -> bool:
        """Whether it was taken, not given back, and not seen to be taken over."""
        return self._is_held

    def take(self) -> None:
        """Say who writes, once the writer before has ended or is taken for dead.

        Raises:
            BusyError: It lives, or took the store over from this one.
        """
        self._refuse_lost()
        root = self._fresh.root()
        last = named_in(root, self._blobs.location)
        if last is None or last.nonce != self._holder.nonce:
            self._take_over(root)
        elif last.released:
            self.check()
            self._say(replace(self._holder, released=False))
        self._is_held = True

    def check(self) -> None:
        """Refuse to go on in a store that was taken over.

        Raises:
            BusyError: It was; this writer can have it no more.
        """
        self._refuse_lost()
        if self._holder.claims_in:
            is_lost = self._blobs.get(self._claim(self._holder.claim + 1)) is not None
        else:
            named = named_in(self._fresh.root(), self._blobs.location)
            is_lost = named is not None and named.nonce != self._holder.nonce
        if is_lost:
            self._is_held = False
            self._lost = (
                f"{self._blobs.location} was taken over by {self._other()}, since this writer "
                f"committed nothing for {LEASE_S:g} s. What was committed stays, this writer adds "
                "nothing to it. To go on here, end the other one and open the store again."
            )
            self._refuse_lost()

    def note_array(self, name: str) -> None:
        """Let claims lie under the first array: zarr warns of keys that are no part of one."""
        if not self._holder.claims_in:
            self.check()
            self._say(replace(self._holder, claims_in=name))

    def release(self) -> None:
        """Say that nobody writes."""
        if self._is_held:
            self._is_held = False
            self.check()
            self._say(replace(self._holder, released=True))

    def _take_over(self, root: Json) -> None:
        last = outwait(self._fresh, root, location=self._blobs.location, is_claimed=False)
        self._holder = replace(
            self._holder,
            claim=last.claim if last else 0,
            claims_in=(last and last.claims_in) or self._first_array(),
        )
        if self._holder.claims_in:
            self._make_claim(root)
            self.check()
        self._say(self._holder)

    def _make_claim(self, root: Json) -> None:
        """Make the next claim that nobody has made.

        Args:
            root: As it was before; who made a claim and lives will change it.
        """
        self._probe()
        nonce = self._holder.nonce.encode()
        while True:
            self._holder = replace(self._holder, claim=self._holder.claim + 1)
            if self._blobs.put_new(self._claim(self._holder.claim), nonce):
                return
            last = outwait(self._fresh, root, location=self._blobs.location, is_claimed=True)
            claim = max(self._holder.claim, last.claim if last else 0)
            self._holder = replace(self._holder, claim=claim)

    def _probe(self) -> None:
        """Refuse a server that lets the same object be made twice.

        Raises:
            FormatError: It does.
        """
        key = self._claim(f"probe-{self._holder.nonce}")
        made = [self._blobs.put_new(key, data) for data in (b"first", b"second")]
        self._blobs.delete(key)
        if made != [True, False]:
            raise FormatError(
                f"{self._blobs.location} ignores `If-None-Match`: it made one object twice, so "
                "two writers could have one store. Nothing was changed. Copy the store to a "
                "server with conditional writes, and go on there."
            )

    def _say(self, holder: Holder) -> None:
        self._holder = holder
        document = self._tree.find("") or self._tree.root()
        self._tree.replace("", with_attrs(document, {WRITER: holder.to_json()}))

    def _claim(self, which: int | str) -> str:
        return key_of(self._holder.claims_in, f"claim-{which}")

    def _first_array(self) -> str:
        names = (name for name, document in self._fresh.walk() if is_array(document))
        return min(names, default="")

    def _other(self) -> str:
        named = named_in(self._fresh.root(), self._blobs.location)
        is_other = named is not None and named.nonce != self._holder.nonce
        return str(named) if is_other else "another process"

    def _refuse_lost(self) -> None:
        if self._lost:
            raise BusyError(self._lost)
