"""What a loader will do, told before it starts.

Owned here: the numbers, and how they read.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxstore.card import card, lines
from jaxstore.loading.column import kept_bytes
from jaxstore.loading.epoch import n_windows
from jaxstore.loading.memory import Memory
from jaxstore.loading.recipe import Recipe
from jaxstore.sizes import size


@dataclass(frozen=True, slots=True)
class LoaderDescription:
    """A loader in numbers, for this process."""

    location: str
    rows: int  # of the split that are given in an epoch, remainder included
    rows_left_out: int  # at the ends of the split, since a lagged view has nothing to show
    batch_size: int  # of all processes together
    local_batch_size: int
    batches: int  # of the first epoch
    windows: int
    window_bytes: int  # decoded chunks that are shuffled together
    block_bytes: int  # decoded chunks in memory at most
    batch_bytes: int  # of one batch
    batches_in_memory: int  # at most, with one in use
    thread_bytes: int  # stored and decoded chunks that threads work on, at most
    is_cached: bool  # the second epoch reads nothing
    stored_chunks: int  # read in the first epoch by all processes, if each were alone
    distinct_chunks: int  # stored chunks that hold the rows of the split
    max_inflight: int

    @property
    def memory_bytes(self) -> int:
        """The most that an epoch takes: blocks, batches, and what threads work on."""
        return self.block_bytes + self.batches_in_memory * self.batch_bytes + self.thread_bytes

    @property
    def reads_per_chunk(self) -> float:
        """How often a stored chunk is read in an epoch; 1 where chunks do not cut across."""
        return self.stored_chunks / max(1, self.distinct_chunks)

    @property
    def title(self) -> str:
        """What is told of."""
        return f"loader of {self.location}"

    @property
    def facts(self) -> dict[str, str]:
        """The numbers in words."""
        share = f", {self.local_batch_size} of them here" * (
            self.local_batch_size != self.batch_size
        )
        left = f", {self.rows_left_out:,} left out" * bool(self.rows_left_out)
        again = "; then from memory" * self.is_cached
        return {
            "rows": f"{self.rows:,}{left}",
            "batches": f"{self.batches:,} of {self.batch_size:,} rows{share}, "
            f"{size(self.batch_bytes)} each",
            "windows": f"{self.windows:,}, {size(self.window_bytes)} each",
            "reads": f"{self.stored_chunks:,} chunks per epoch, each "
            f"{self.reads_per_chunk:.3g} times, {self.max_inflight} at a time{again}",
            "memory": f"{size(self.memory_bytes)}: blocks {size(self.block_bytes)}, "
            f"{self.batches_in_memory} batches, threads {size(self.thread_bytes)}",
        }

    def __str__(self) -> str:
        return lines(self.title, self.facts)

    def _repr_html_(self) -> str:
        return card(self.title, self.facts)


def describe(recipe: Recipe, memory: Memory) -> LoaderDescription:
    """A recipe and its memory in numbers."""
    schedule, columns = recipe.schedule, recipe.columns
    stored, distinct = recipe.reads(0)
    return LoaderDescription(
        location=", ".join(dict.fromkeys(column.source.location for column in columns)),
        rows=schedule.n_rows,
        rows_left_out=recipe.n_split_rows - schedule.n_rows,
        batch_size=schedule.batch_size,
        local_batch_size=len(recipe.positions),
        batches=schedule.n_batches(0),
        windows=n_windows(schedule),
        window_bytes=recipe.window_bytes,
        block_bytes=kept_bytes(columns, memory.n_slots),
        batch_bytes=recipe.batch_bytes,
        batches_in_memory=memory.n_batches,
        thread_bytes=memory.thread_bytes,
        is_cached=all(n >= m for n, m in zip(memory.n_slots, recipe.all_slots, strict=True)),
        stored_chunks=stored,
        distinct_chunks=distinct,
        max_inflight=memory.max_inflight,
    )
