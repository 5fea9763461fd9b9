"""Writing a run: blocks in, whole chunks, checkpoints and commits out.

Owned here: the order of writes, and which draws are committed. Layout decisions come from
`layout`, chunk gathering from `assembly`; the thread that calls this is `writer`'s. How a run that
was killed is taken up again is `resumption`.

Commit = data, then shape, then the record. A kill between any two leaves the last commit as it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jaxstore.saving.assembly import Strand
from jaxstore.saving.block import Block, HostArray
from jaxstore.saving.checkpoint import Checkpoint, put_checkpoint
from jaxstore.saving.layout import Layout, array_specs, chunking_of, home_of
from jaxstore.saving.record import CheckpointMark, Mark, Record
from jaxstore.saving.tail import Piece, put_tail
from jaxstore.stores.base import ArraySpec, Store

# Where no chunk fills for so long, its beginning is committed too: in place where the store
# replaces a chunk as a whole, so that a kill leaves the old beginning or the longer one, else as a
# blob.
TAIL_EVERY_S = 5.0
COMMIT_SHARE = 0.05  # of the time may go into commits: one small object per array, and one more
CHECKPOINT_SHARE = 0.05  # of the time may go into checkpoints: what waits, the state, and a commit

Key = tuple[int, int]  # first chain and number of chains that advance together


def is_time(since_s: float, *, cost_s: float) -> bool:
    """Whether a checkpoint may follow `since_s` after the last one, which took `cost_s`."""
    return since_s * CHECKPOINT_SHARE >= cost_s


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
        self._ended: dict[int, int] = {}  # draws of chains that get no more, of earlier sessions
        self._alone: set[int] = set()  # chains that once advanced together and do no more
        self.n_chains = 0  # with draws, or begun
        self._shapes: dict[str, tuple[int, ...]] = {}  # that the arrays show
        self._committed_at = 0.0
        self._state = ""  # as of the last commit
        self._commit_s = 0.0  # that the last commit took
        self._is_committed = True  # all that was written
        self._checkpoint: CheckpointMark | None = None
        self._tail: Mark | None = None
        self._due: Checkpoint | None = None  # waits until it is time for the next checkpoint
        self._checkpoint_at = 0.0
        self.checkpoint_s = 0.0  # that the last checkpoint took
        self.committed: list[int] = []  # draws of each chain, as of the last commit
        self.bytes_written = 0  # of arrays, before compression

    @property
    def draws_committed(self) -> int:
        """Draws of all chains together that a reader sees."""
        return sum(self.committed)

    def go_on(
        self,
        specs: list[ArraySpec],
        strands: dict[Key, list[Strand]],
        ended: Mapping[int, int],
        *,
        checkpoint: CheckpointMark | None,
        tail: Mark | None,
    ) -> None:
        """Begin with arrays that are there, cut back to a checkpoint."""
        self._specs, self._strands, self._ended = specs, strands, dict(ended)
        self._checkpoint, self._tail = checkpoint, tail
        self.n_chains = len(checkpoint.draws) if checkpoint else 0
        self.committed = list(checkpoint.draws) if checkpoint else []
        self._committed_at = self._checkpoint_at = time.monotonic()
        self._state = "running"

    def write(self, block: Block) -> None:
        """Take a block; whole chunks go to the store, and from time to time a commit follows."""
        self._create(block.sender_chains, is_ragged=block.n_chains < block.sender_chains)
        pieces = block.split() if self._must_split(block) else (block,)
        for piece in pieces:
            self._write_piece(piece)
        self._is_committed = False
        self._commit_due()
        self._keep_due()

    def checkpoint(self, point: Checkpoint) -> None:
        """Commit the state of the sampler, and every draw that came before it, when it is time.

        Where they come faster than a share of the time allows, the latest one waits. One that only
        says what has ended does not: draws of others may follow, and must not count before it.
        """
        self._due = point
        self._keep_due(is_urgent=not point.senders)

    def beat(self) -> None:
        """Do what is due while no draws come: a checkpoint or a commit, or a sign of life."""
        self._keep_due()
        if not self._is_committed:
            self._commit_due()
        lease_s = self._store.lease_s
        is_quiet = lease_s is not None and time.monotonic() - self._committed_at > lease_s / 4
        if is_quiet and self._state == "running":
            self.commit("running")

    def finish(self, chains: Iterable[int], *, state: str) -> None:
        """Write what waits of these chains as short last chunks, and commit."""
        chains = set(chains)
        self._create(max(1, len(chains)), is_ragged=False)
        self.n_chains = max(self.n_chains, *(c + 1 for c in chains), 0)
        for key in [k for k in self._strands if chains & set(range(k[0], sum(k)))]:
            for i, strand in enumerate(self._strands[key]):
                for first, rows in strand.rest():
                    self._put(key, i, first, rows)
        if not self._has_waiting:
            self._tail = None
        is_due = self._due is not None
        if self._due is not None:
            self._put_point(self._due)
        self.commit(state, with_tails=is_due)
        if state == "complete":
            self._drop_stale()

    def commit(self, state: str, *, with_tails: bool = False) -> None:
        """Make everything written so far count: shapes first, then the record."""
        with_tails = with_tails or self._store.keeps_commits  # which show leaves of one length
        if with_tails:
            self._write_tails()
        began, draws = time.monotonic(), self._draws()
        for i, spec in enumerate(self._specs):
            shape = (self.n_chains, self._extent(i, draws), *spec.shape[2:])
            if shape != self._shapes.get(spec.name):
                self._store.resize(spec.name, shape)
                self._shapes[spec.name] = shape
        record = Record.now(tuple(draws), state, self._checkpoint, self._tail)
        self._store.commit(record.to_json())
        self._state = state
        self.committed, self._committed_at = draws, time.monotonic()
        self._is_committed = with_tails or not self._has_waiting
        # The very first says that there is nothing, and makes files: no measure of the others.
        self._commit_s = self._committed_at - began if any(draws) else 0.0

    @property
    def _home(self) -> str:
        """The array under which blobs lie."""
        return home_of(self._layout)

    @property
    def _has_waiting(self) -> bool:
        """Whether draws wait for their chunk to fill."""
        return any(s.waiting for strands in self._strands.values() for s in strands)

    def _draws(self) -> list[int]:
        """Draws of each chain that all leaves have in the store."""
        draws = [self._ended.get(chain, 0) for chain in range(self.n_chains)]
        for (first, n), strands in self._strands.items():
            draws[first : first + n] = [min(s.shown for s in strands)] * n
        return draws

    def _extent(self, i: int, draws: Sequence[int]) -> int:
        """Draws that an array shows to readers who know nothing of the record."""
        if self._store.replaces_chunks:
            return max(draws, default=0)
        # The tail is a blob, so the array ends with its last chunk.
        leaf = min(i, len(self._layout.leaves))
        ends = [strands[leaf].stored for strands in self._strands.values()]
        return max([*ends, *self._ended.values()], default=0)

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
        # A kill while arrays are made leaves some of them; they have no draws yet.
        there = set(self._store.names())
        for spec in array_specs(self._layout, chunking):
            if spec.name not in there:
                self._store.create(spec)
                self._specs.append(spec)
            else:
                self._specs.append(self._store.spec(spec.name))

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
        self.n_chains = max(self.n_chains, sum(key))
        n_leaves = len(self._layout.leaves)
        if key not in self._strands:
            # The first array of `iteration` stands for those of all groups.
            self._strands[key] = [Strand(s.chunks[1]) for s in self._specs[: n_leaves + 1]]
        for i, rows in enumerate((*block.leaves, block.steps)):
            for first, whole in self._strands[key][i].push(rows):
                self._put(key, i, first, whole)

    def _write_tails(self) -> None:
        """Write what waits, for now: into its chunks, or as a blob."""
        if self._store.replaces_chunks:
            for key, i, first, rows in self._waiting():
                self._put(key, i, first, rows)
            return
        pieces = [
            Piece(spec.name, key[0], first, rows)
            for key, i, first, rows in self._waiting()
            for spec in self._specs_of(i)
        ]
        self._tail = Mark.next("tail", self._tail) if pieces else None
        if self._tail is not None:
            put_tail(self._store, self._home, self._tail, pieces)

    def _commit_due(self) -> None:
        """Commit what was written, when it is time."""
        since = time.monotonic() - self._committed_at
        is_cheap, is_late = since * COMMIT_SHARE > self._commit_s, since > TAIL_EVERY_S
        if self._store.keeps_commits:
            is_due, with_tails = is_cheap and is_late, True
        elif is_cheap and sum(self._draws()) > self.draws_committed:
            is_due, with_tails = True, False
        else:
            is_due, with_tails = is_late, True
        if is_due:
            self.commit("running", with_tails=with_tails)

    def _keep_due(self, *, is_urgent: bool = False) -> None:
        since = time.monotonic() - self._checkpoint_at
        if self._due is None or not (is_urgent or is_time(since, cost_s=self.checkpoint_s)):
            return
        point = self._due
        is_ragged = any(sender.is_ragged for sender in point.senders)
        self._create(max(1, len(point.draws)), is_ragged=is_ragged)
        self.n_chains = max(self.n_chains, len(point.draws))
        began = time.monotonic()  # the arrays are made once
        self._put_point(point)
        self.commit("running", with_tails=True)
        self._checkpoint_at = time.monotonic()
        self.checkpoint_s = self._checkpoint_at - began

    def _put_point(self, point: Checkpoint) -> None:
        before = None if self._checkpoint is None else self._checkpoint.mark
        mark = Mark.next("checkpoint", before)
        put_checkpoint(self._store, self._home, mark, point)
        self._checkpoint, self._due = CheckpointMark(mark, point.step, point.draws), None

    def _drop_stale(self) -> None:
        """Remove the blobs that no longer count: those of the other slots, and the last tail."""
        counting = set() if self._tail is None else {self._tail.key}
        if self._checkpoint is not None:
            counting.add(self._checkpoint.mark.key)
        for key in ("checkpoint-0", "checkpoint-1", "tail-0", "tail-1"):
            if key not in counting:
                self._store.delete_blob(self._home, key)

    def _waiting(self) -> Iterator[tuple[Key, int, int, HostArray]]:
        """What waits: chains, number of the leaf, first draw, rows."""
        for key, strands in self._strands.items():
            for i, strand in enumerate(strands):
                for first, rows in strand.tail():
                    yield key, i, first, rows

    def _specs_of(self, i: int) -> Sequence[ArraySpec]:
        """The arrays that take the rows of a leaf; after the leaves, those that take the steps."""
        n_leaves = len(self._layout.leaves)
        return [self._specs[i]] if i < n_leaves else self._specs[n_leaves:]

    def _put(self, key: Key, i: int, first_draw: int, rows: HostArray) -> None:
        for spec in self._specs_of(i):
            self._store.write(spec.name, (key[0], first_draw, *(0,) * (rows.ndim - 2)), rows)
            self.bytes_written += rows.nbytes
