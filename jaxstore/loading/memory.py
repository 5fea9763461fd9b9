"""How the memory that a loader may take is used, and how many reads go on at a time.

Owned here: the decision, as data. Who takes the memory is `blocks` and `buffers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxstore.loading.options import Work
from jaxstore.loading.recipe import Recipe
from jaxstore.topology import n_processors

_REMOTE_INFLIGHT = 32  # 16 hid 30 ms per request in measurements; services have longer tails
_MOST_LOCAL_INFLIGHT = 8


@dataclass(frozen=True, slots=True)
class Memory:
    """What an epoch takes of it."""

    n_slots: tuple[int, ...]  # chunks of each column
    max_inflight: int
    n_batches: int  # made and in the making, and one in use
    thread_bytes: int  # stored chunks as they came, one per thread


def plan_memory(recipe: Recipe, work: Work) -> Memory:
    """How the memory that may be taken is used.

    Raises:
        TooLargeError: It is too little.
    """
    is_remote = any(column.source.is_remote for column in recipe.columns)
    max_inflight = work.max_inflight or (
        _REMOTE_INFLIGHT if is_remote else max(2, min(_MOST_LOCAL_INFLIGHT, n_processors()))
    )
    largest = max(column.stored_chunk_bytes for column in recipe.columns)
    n_batches = work.prefetch + 1
    thread_bytes = max_inflight * largest
    others = n_batches * recipe.batch_bytes + thread_bytes
    slots = recipe.n_slots(work.memory_bytes, other_bytes=others)
    return Memory(slots, max_inflight, n_batches, thread_bytes)
