"""Writing a run: blocks in, whole chunks and commits out.

Owned here: the order of writes, and which draws are committed. Layout decisions come from
`layout`, chunk gathering from `assembly`; the thread that calls this is `writer`'s.

Commit = data, then shape, then the record. A kill between any two leaves the last commit as it was.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np

from jaxstore.saving.assembly import Strand
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.layout import ITERATION, Layout, array_specs, chunking_of
from jaxstore.stores.base import ArraySpec, Store

# Where no chunk fills for so long, its beginning is written and committed too. Only into stores
# that replace a chunk as a whole, so that a kill leaves the old beginning or the longer one.
TAIL_EVERY_S = 5.0
COMMIT_SHARE = 0.05  # of the time may go into commits: one small object per array, and one more

Key = tuple[int, int]  # first chain and number of chains that advance together


class Recorder:
    """Writes the blocks of one run into its store. Used by one thread at a time.

    Args:
        store: With the manifest in it, and no arrays.
        layout: Of the sample.
        chunk_draws: Draws per chunk; None chooses by size.
        n_draws: Of each chain, as far as is known before.
    """

    def __init__(
        self, store: Store, layout: Layout, *, chunk_draws: int | None, n_draws: int | None
    ) -> None:
        self._store = store
        self._layout = layout
        self._chunk_draws = chunk_draws
        self._n_draws = n_draws
        self._specs: list[ArraySpec] = []
        self._strands: dict[Key, list[Strand]] = {}  # one per leaf, then one for the steps
        self._alone: set[int] = set()  # chains that once advanced together and do no more
        self._n_chains = 0
        self._shape = (0, 0)  # chains and draws that the arrays show
        self._committed_at = 0.0
        self._commit_s = 0.0  # that the last commit took
        self.committed: list[int] = []  # draws of each chain, as of the last commit
        self.bytes_written = 0  # of arrays, before compression

    @property
    def draws_committed(self) -> int:
        """Draws of all chains together that a reader sees."""
        return sum(self.committed)

    def write(self, block: Block) -> None:
        """Take a block; whole chunks go to the store, and from time to time a commit follows."""
        self._create(block.sender_chains, is_ragged=block.n_chains < block.sender_chains)
        pieces = block.split() if self._must_split(block) else (block,)
        for piece in pieces:
            self._write_piece(piece)
        since = time.monotonic() - self._committed_at
        if since * COMMIT_SHARE > self._commit_s and sum(self._draws()) > self.draws_committed:
            self.commit("running")
        elif since > TAIL_EVERY_S and self._store.replaces_chunks:
            self._write_tails()
            self.commit("running")

    def finish(self, chains: Iterable[int], *, state: str) -> None:
        """Write what waits of these chains as short last chunks, and commit."""
        chains = set(chains)
        self._create(max(1, len(chains)), is_ragged=False)
        self._n_chains = max(self._n_chains, *(c + 1 for c in chains), 0)
        for key in [k for k in self._strands if chains & set(range(k[0], sum(k)))]:
            for i, strand in enumerate(self._strands[key]):
                for first, rows in strand.rest():
                    self._put(key, i, first, rows)
        self.commit(state)

    def commit(self, state: str) -> None:
        """Make everything written so far count: shapes first, then the record."""
        began, draws = time.monotonic(), self._draws()
        shape = (self._n_chains, max(draws, default=0))
        if shape != self._shape:
            for spec in self._specs:
                self._store.resize(spec.name, (*shape, *spec.shape[2:]))
            self._shape = shape
        self._store.commit(
            {
                "draws": draws,
                "state": state,
                "nonce": uuid.uuid4().hex,
                "committed_at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        self.committed, self._committed_at = draws, time.monotonic()
        # The very first says that there is nothing, and makes files: no measure of the others.
        self._commit_s = self._committed_at - began if any(draws) else 0.0

    def _draws(self) -> list[int]:
        """Draws of each chain that all leaves have in the store."""
        draws = [0] * self._n_chains
        for (first, n), strands in self._strands.items():
            draws[first : first + n] = [min(s.shown for s in strands)] * n
        return draws

    def _create(self, n_chains: int, *, is_ragged: bool) -> None:
        """Make the arrays, once it is known how chains advance."""
        if self._specs:
            return
        chunking = chunking_of(
            self._layout,
            n_chains=n_chains,
            is_ragged=is_ragged,
            chunk_draws=self._chunk_draws,
            n_draws=self._n_draws,
        )
        self._specs = array_specs(self._layout, chunking)
        for spec in self._specs:
            self._store.create(spec)

    def _must_split(self, block: Block) -> bool:
        """Whether chains that come together here came apart before, or the other way round."""
        if (block.first_chain, block.n_chains) in self._strands:
            return False
        chains = range(block.first_chain, block.first_chain + block.n_chains)
        for key in list(self._strands):
            members = range(key[0], key[0] + key[1])
            if not set(members) & set(chains):
                continue
            self._alone |= set(members)
            if key[1] > 1:
                apart = [strand.split(key[1]) for strand in self._strands.pop(key)]
                for i, chain in enumerate(members):
                    self._strands[chain, 1] = [strands[i] for strands in apart]
        return block.n_chains > 1 and bool(self._alone & set(chains))

    def _write_piece(self, block: Block) -> None:
        key = (block.first_chain, block.n_chains)
        self._n_chains = max(self._n_chains, sum(key))
        n_leaves = len(self._layout.leaves)
        if key not in self._strands:
            # The first array of `iteration` stands for those of all groups.
            self._strands[key] = [Strand(s.chunks[1]) for s in self._specs[: n_leaves + 1]]
        for i, rows in enumerate((*block.leaves, block.steps)):
            for first, whole in self._strands[key][i].push(rows):
                self._put(key, i, first, whole)

    def _write_tails(self) -> None:
        for key, strands in self._strands.items():
            for i, strand in enumerate(strands):
                for first, rows in strand.tail():
                    self._put(key, i, first, rows)

    def _put(self, key: Key, i: int, first_draw: int, rows: HostArray) -> None:
        n_leaves = len(self._layout.leaves)
        for spec in [self._specs[i]] if i < n_leaves else self._specs[n_leaves:]:
            self._store.write(spec.name, (key[0], first_draw, *(0,) * (rows.ndim - 2)), rows)
            self.bytes_written += rows.nbytes


def write_coordinates(store: Store, layout: Layout, coords: Mapping[str, HostArray]) -> None:
    """Write the coordinates of dimensions beside the leaves that use them.

    Groups say in `coordinates`, as the CF conventions have it, that `iteration` is one too.
    """
    for group in layout.groups:
        store.set_attrs({"coordinates": ITERATION}, group)
        inside = [leaf for leaf in layout.leaves if leaf.name.startswith(f"{group}/")]
        places = {(leaf.name.rpartition("/")[0], dim) for leaf in inside for dim in leaf.dims}
        for parent, dim in sorted(places):
            if dim in coords:
                values = np.asarray(coords[dim])
                name = f"{parent}/{dim}"
                if values.dtype.kind == "U":
                    store.create_labels(name, values.tolist())
                    continue
                store.create(ArraySpec(name, values.shape, values.shape, values.dtype, (dim,)))
                store.write(name, (0,), values)
