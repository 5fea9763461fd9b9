"""The tail of a run: draws that fill no chunk yet, in stores that cannot rewrite one safely.

Owned here: the tail as a blob, and a store whose arrays read as if it were written. A tail that is
out of date does no harm: its rows equal those that lie in the arrays by then, and what comes after
it is read from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.saving.blob import pack, unpack
from jaxstore.saving.block import HostArray
from jaxstore.saving.record import Mark
from jaxstore.stores.base import Store


@dataclass(frozen=True, slots=True)
class Piece:
    """The last draws of neighbouring chains of one array."""

    name: str  # of the array
    first_chain: int
    first_draw: int
    rows: HostArray  # (n_chains, n_draws, ...)

    @property
    def chains(self) -> range:
        """Numbers of its chains."""
        return range(self.first_chain, self.first_chain + self.rows.shape[0])

    @property
    def stop_draw(self) -> int:
        """The first draw that is not in it."""
        return self.first_draw + self.rows.shape[1]


def put_tail(store: Store, name: str, mark: Mark, pieces: Sequence[Piece]) -> None:
    """Put pieces as the blob that a mark names, under an array."""
    places = [[piece.name, piece.first_chain, piece.first_draw] for piece in pieces]
    meta = {"nonce": mark.nonce, "pieces": places}
    store.put_blob(name, mark.key, [pack(meta, [piece.rows for piece in pieces])])


def get_tail(store: Store, name: str, mark: Mark) -> list[Piece]:
    """The pieces that a mark names.

    Raises:
        FormatError: The blob is absent, damaged, or another one.
    """
    meta, arrays = get_blob(store, name, mark)
    return [
        Piece(str(place[0]), int(place[1]), int(place[2]), rows)
        for place, rows in zip(meta["pieces"], arrays, strict=True)
    ]


def get_blob(store: Store, name: str, mark: Mark) -> tuple[dict[str, Any], list[HostArray]]:
    """JSON and arrays of the blob that a mark names.

    Raises:
        FormatError: The blob is absent, damaged, or another one.
    """
    what = f"{mark.key} of {store.location}"
    data = store.get_blob(name, mark.key)
    if data is None:
        raise FormatError(
            f"{what} is gone, and the commit record counts on it. Restore it from a copy."
        )
    meta, arrays = unpack(data, what=what)
    if meta.get("nonce") != mark.nonce:
        raise FormatError(
            f"{what} is another one than the commit record counts on: its nonce is "
            f"{str(meta.get('nonce'))[:40]!r}, not {mark.nonce!r}. Restore both from one copy."
        )
    return meta, arrays


def with_tail(store: Store, name: str, mark: Mark | None) -> Store:
    """The store, reading as if the tail that a mark names were in its arrays.

    Raises:
        FormatError: The blob is absent, damaged, or another one.
    """
    if mark is None:
        return store
    return cast(Store, TailedStore(store, get_tail(store, name, mark)))


class TailedStore:
    """A store for reading whose arrays end in the pieces of a tail."""

    def __init__(self, store: Store, pieces: Iterable[Piece]) -> None:
        self._store = store
        self._pieces: dict[str, list[Piece]] = {}
        for piece in pieces:
            self._pieces.setdefault(piece.name, []).append(piece)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(
        self, name: str, region: tuple[slice, ...] = (), *, is_strict: bool = False
    ) -> HostArray:
        """Copy out a region; rows of the tail come from it, all others from the arrays."""
        pieces = self._pieces.get(name, [])
        if len(region) < 2 or not any(p.rows.shape[1] for p in pieces):
            return self._store.read(name, region, is_strict=is_strict)
        parts, chain = [], region[0].start
        while chain < region[0].stop:
            piece = next((p for p in pieces if chain in p.chains), None)
            # Chains of one piece share chunks, so they are read together; so are those of none.
            ends = [p.first_chain for p in pieces if p.first_chain > chain]
            end = min([region[0].stop, *([piece.chains.stop] if piece else ends)])
            part = (slice(chain, end), *region[1:])
            if piece is None:
                parts.append(self._store.read(name, part, is_strict=is_strict))
            else:
                parts.append(self._joined(piece, part, is_strict=is_strict))
            chain = end
        return np.concatenate(parts) if parts else self._store.read(name, region)

    def damage(self, name: str, region: tuple[slice, ...]) -> Iterator[str]:
        """What is wrong with the chunks of a region that are not in the tail."""
        pieces = self._pieces.get(name, [])
        for chain in range(region[0].start, region[0].stop):
            piece = next((p for p in pieces if chain in p.chains), None)
            stop = region[1].stop
            if piece is not None and stop <= piece.stop_draw:
                stop = min(stop, piece.first_draw)
            if stop > region[1].start:
                rows = (slice(chain, chain + 1), slice(region[1].start, stop), *region[2:])
                yield from self._store.damage(name, rows)

    def _joined(self, piece: Piece, region: tuple[slice, ...], *, is_strict: bool) -> HostArray:
        """A region of chains of one piece: rows of the array, then rows of the piece."""
        chains, draws, *inner = region
        # What lies beyond the piece is in the array, and so is then all of the piece.
        if draws.stop <= piece.first_draw or draws.stop > piece.stop_draw:
            return self._store.read(piece.name, region, is_strict=is_strict)
        middle = max(draws.start, piece.first_draw)
        last = piece.rows[
            chains.start - piece.first_chain : chains.stop - piece.first_chain,
            middle - piece.first_draw : draws.stop - piece.first_draw,
            *inner,
        ]
        if draws.start >= middle:
            return last.copy()
        before = (chains, slice(draws.start, middle), *inner)
        rows = self._store.read(piece.name, before, is_strict=is_strict)
        return np.concatenate([rows, last], axis=1)
