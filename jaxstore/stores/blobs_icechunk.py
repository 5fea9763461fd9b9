"""Icechunk: a branch of a repository, or what one session sees of it.

Owned here: which session is read and written, its commits, and where objects lie that are neither
a document nor a chunk, since Icechunk takes nothing else: each in an array of bytes, in a group
that is hidden from jaxstore's own listings.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

from zarr.abc.store import Store as AnyZarrStore

from jaxstore.errors import BusyError, MissingError
from jaxstore.stores.blob_keys import is_key
from jaxstore.stores.blobs_ahead import Found
from jaxstore.stores.blobs_zarr import ZarrBlobs
from jaxstore.stores.icechunk_branch import IcechunkBranch
from jaxstore.stores.plain_files import ANY_BYTES, Array

_HIDDEN = ".jaxstore"  # no name of a leaf begins with a dot
_DOCUMENT = "zarr.json"
_END = b"\0"  # of what lies in an array of its own: Icechunk takes no chunk of no bytes


class IcechunkBlobs:
    """Objects of a branch, or of a session; nothing that is put is seen before `publish`.

    Who only reads sees the branch as it is whenever the root document is read. From the first
    `put` on, all is read as that left it.

    Args:
        session: To begin with.
        prefix: Of the root, "" or ending in a slash.
        branch: That the session is of and that is written; None to read the session alone.
    """

    def __init__(
        self, session: Any, *, prefix: str = "", branch: IcechunkBranch | None = None
    ) -> None:
        self._branch = branch
        self._is_writer = False
        self._lost = ""  # how another writer came in between
        self.prefix = prefix
        self._use(session)
        said = str(branch or f"icechunk snapshot {session.snapshot_id}")
        self.location = f"{said} {prefix}".rstrip(" /")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self.location}: what is open in Icechunk is not pickled, since credentials of its "
            "storage would go with it. Open the repository there."
        )

    @classmethod
    def of_branch(cls, branch: IcechunkBranch) -> IcechunkBlobs:
        """The objects of a branch.

        Raises:
            MissingError: There is no such branch.
        """
        if branch.name not in branch.repository.list_branches():
            raise MissingError(
                f"{branch}: there is no such branch. Make it by `repository.create_branch`."
            )
        return cls(branch.repository.readonly_session(branch.name), branch=branch)

    @property
    def zarr_store(self) -> AnyZarrStore:
        """The store of the session, for zarr."""
        return self._seen.zarr_store

    @property
    def is_remote(self) -> bool:
        """Whether a request may wait for a network."""
        return self._seen.is_remote

    def below(self, folder: str) -> IcechunkBlobs:
        """The objects in a folder, as a place of their own, to read."""
        return IcechunkBlobs(self._session, prefix=f"{self.prefix}{folder}/")

    def fresh(self) -> IcechunkBlobs:
        """The same place as readers find it."""
        if self._branch is None:
            return self
        return IcechunkBlobs(self._session_to_read(self._branch), branch=self._branch)

    def get(self, key: str, most_bytes: int = ANY_BYTES) -> bytes | None:
        """The object, None if there is none."""
        self._look(key)
        place = _place_of(key)
        found = self._seen.get(place, most_bytes)
        return found if found is None or place == key else found[: -len(_END)]

    def get_view(self, key: str, most_bytes: int, take: Callable[[int], Array]) -> Array | None:
        """A document or chunk, as the bytes that Icechunk gave."""
        return self._seen.get_view(key, most_bytes, take)

    def get_into(self, key: str, parts: Sequence[Array]) -> bool:
        """Fill the parts with a document or chunk; whether there is one."""
        return self._seen.get_into(key, parts)

    def get_many(self, keys: Iterable[str], most_bytes: int) -> Iterator[Found]:
        """Documents or chunks, several at once."""
        return self._seen.get_many(keys, most_bytes)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Put the parts as one object."""
        blobs, place = self._to_write(), _place_of(key)
        if place != key:
            parts = [*parts, _END]
            group, array = _documents(key, sum(memoryview(part).nbytes for part in parts))
            blobs.put_new(f"{_HIDDEN}/{_DOCUMENT}", group)
            blobs.put(_array_of(key), [array])
        blobs.put(place, parts)

    def put_new(self, key: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it was put."""
        is_new = self.get(key) is None
        if is_new:
            self.put(key, [data])
        return is_new

    def delete(self, key: str) -> None:
        """Remove an object that may be there."""
        self._to_write().delete(key if _place_of(key) == key else _array_of(key))

    def keys(self, under: str = "") -> Iterator[str]:
        """Keys of all objects in a folder and the folders in it."""
        node = under.removesuffix("/c")  # Icechunk lists nodes, not the folder of their chunks
        keys = self._seen.keys(node)
        return (key for key in keys if key.startswith(under) and not key.startswith(_HIDDEN))

    def stamps(self, under: str) -> Iterator[tuple[str, str]] | None:
        """The snapshot of a session that has changed nothing."""
        if self._session.has_uncommitted_changes:
            return None
        return iter([(under, str(self._session.snapshot_id))])

    def folders(self, under: str = "") -> list[str]:
        """Names of the folders in a folder."""
        return [name for name in self._seen.folders(under) if name != _HIDDEN]

    def tidy(self) -> None:
        """Nothing to do: what is not committed is not there."""

    def sync(self) -> None:
        """Nothing to do: what is committed is where the storage keeps it."""

    def publish(self, message: str) -> None:
        """Commit what was put, as a snapshot of the branch.

        Raises:
            BusyError: Somebody else committed to the branch; all of it stays, and this does not.
        """
        from icechunk import ConflictError

        self._refuse_lost()
        if self._branch is None or not self._session.has_uncommitted_changes:
            return
        told = {"jaxstore": uuid.uuid4().hex}
        try:
            self._session.commit(message, told)
        except ConflictError:
            # A commit whose answer was lost is sent again, and then finds itself there.
            there = self._session_to_read(self._branch)
            if self._snapshot(there.snapshot_id).metadata != told:
                self._lose()
            self._use(there)

    def discard(self) -> None:
        """Forget what was put and not committed; from now on this is a reader as any other."""
        if self._branch is not None:
            self._use(self._session_to_read(self._branch))
        self._is_writer = False

    def _use(self, session: Any) -> None:
        self._session = session
        self._seen = ZarrBlobs(session.store, self.prefix)

    def _look(self, key: str) -> None:
        """Turn to the newest snapshot, as often as a reader asks anew what there is."""
        if key != _DOCUMENT or self._is_writer or self._branch is None:
            return
        tip = self._branch.repository.lookup_branch(self._branch.name)
        if tip != self._session.snapshot_id:
            self._use(self._session_to_read(self._branch))

    def _snapshot(self, snapshot_id: str) -> Any:
        assert self._branch is not None
        return next(iter(self._branch.repository.ancestry(snapshot_id=snapshot_id)))

    def _session_to_read(self, branch: IcechunkBranch) -> Any:
        return branch.repository.readonly_session(branch.name)

    def _to_write(self) -> ZarrBlobs:
        """What writes to a session that goes on from what was seen here last.

        Raises:
            BusyError: Somebody else committed since.
        """
        self._refuse_lost()
        if self._branch is None:
            raise TypeError(
                f"{self.location}: a session commits once, a run often. Give the repository, or "
                "IcechunkBranch(repository, 'branch')."
            )
        if self._session.read_only:
            session = self._branch.repository.writable_session(self._branch.name)
            if session.snapshot_id != self._session.snapshot_id:
                self._lose()
            self._use(session)
            self._is_writer = True
        return self._seen

    def _lose(self) -> None:
        assert self._branch is not None
        tip = self._snapshot(self._branch.repository.lookup_branch(self._branch.name))
        self._lost = (
            f"{self.location}: another writer committed {tip.message!r} as snapshot {tip.id} "
            f"after {self._session.snapshot_id}, on which this writer builds. Both stay, this "
            "writer adds nothing to them. End the other one and resume, or take another branch."
        )
        self._refuse_lost()

    def _refuse_lost(self) -> None:
        if self._lost:
            raise BusyError(self._lost)


def _place_of(key: str) -> str:
    """Where an object lies: a document or chunk under its own key."""
    return f"{_array_of(key).removesuffix(_DOCUMENT)}c/0" if _is_apart(key) else key


def _array_of(key: str) -> str:
    return f"{_HIDDEN}/{quote(key, safe='')}/{_DOCUMENT}"


def _is_apart(key: str) -> bool:
    return is_key(key.rpartition("/")[2])


def _documents(key: str, n_bytes: int) -> tuple[bytes, bytes]:
    """The documents of the hidden group, and of an array in it of one chunk of bytes."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n_bytes],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [n_bytes]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
        # xarray opens every group there is; a dimension called as the array would be read at once.
        "dimension_names": [f"{key} byte"],
    }
    return json.dumps(group).encode(), json.dumps(array).encode()
