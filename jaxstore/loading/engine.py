"""From a recipe to batches on their devices: the stages one after the other.

Owned here: which memory an epoch uses, and that it is given back. Iterators that go on at the same
time have memory of their own; the first to end leaves its for the next.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from jaxstore.loading.assembly import Gather, host_batches
from jaxstore.loading.batch import Batch, HostBatch
from jaxstore.loading.blocks import Blocks
from jaxstore.loading.device import Finish, Global, Placement, check_batch_size, check_dtypes
from jaxstore.loading.gather import HostGather
from jaxstore.loading.gather_device import DeviceGather
from jaxstore.loading.options import Destination, Work
from jaxstore.loading.position import Position
from jaxstore.loading.recipe import Recipe
from jaxstore.loading.statistics import Clock

_REMOTE_INFLIGHT = 32  # 16 hid 30 ms per request in measurements; services have longer tails
_MOST_LOCAL_INFLIGHT = 8


@dataclass(frozen=True, slots=True)
class _Memory:
    """What one epoch works in."""

    blocks: Blocks
    gather: Gather


class Engine:
    """Makes the batches of epochs.

    Args:
        recipe: What they are made of.
        n_slots: Chunks of each column in memory.
        max_inflight: Reads at the same time.
        gather: Makes what puts batches together.
        finish: The last step.
    """

    def __init__(
        self,
        recipe: Recipe,
        n_slots: tuple[int, ...],
        *,
        max_inflight: int,
        gather: Callable[[Recipe, Blocks], Gather],
        finish: Finish,
    ) -> None:
        self._recipe = recipe
        self._n_slots = n_slots
        self._max_inflight = max_inflight
        self._gather = gather
        self._finish = finish
        self._idle: _Memory | None = None
        self._is_over = False
        self._lock = threading.Lock()  # guards these two

    def batches(self, start: Position, clock: Clock) -> Generator[Batch]:
        """The batches of an epoch from a position on, where they belong."""
        return self._made(start, clock, self._finish.batch)

    def host_batches(self, start: Position, clock: Clock) -> Generator[HostBatch]:
        """The same, before they go anywhere."""
        return self._made(start, clock, lambda host: host)

    def _made[T](
        self, start: Position, clock: Clock, finish: Callable[[HostBatch], T]
    ) -> Generator[T]:
        memory = self._take()
        memory.blocks.open()
        clock.reads = memory.blocks.reads
        coming = host_batches(
            self._recipe,
            memory.blocks,
            memory.gather,
            clock.timings,
            epoch=start.epoch,
            batch=start.batch,
        )
        try:
            while True:
                host = next(coming, None)
                if host is None:
                    return
                began = time.perf_counter()
                made = [finish(host)]
                clock.timings.place += time.perf_counter() - began
                del host  # a name that outlives the yield would keep the buffer of the batch
                yield made.pop()
        finally:
            coming.close()
            memory.blocks.close()
            self._give_back(memory)

    def _take(self) -> _Memory:
        with self._lock:
            memory, self._idle = self._idle, None
        if memory is not None:
            return memory
        blocks = Blocks(self._recipe.columns, self._n_slots, max_inflight=self._max_inflight)
        return _Memory(blocks, self._gather(self._recipe, blocks))

    def _give_back(self, memory: _Memory) -> None:
        with self._lock:
            self._idle = None if self._is_over else memory

    def forget(self) -> None:
        """Keep no memory for a next epoch."""
        with self._lock:
            self._is_over, self._idle = True, None


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
        _REMOTE_INFLIGHT if is_remote else max(2, min(_MOST_LOCAL_INFLIGHT, _n_processors()))
    )
    largest = max(column.stored_chunk_bytes for column in recipe.columns)
    n_batches = work.prefetch + 1
    thread_bytes = max_inflight * largest
    others = n_batches * recipe.batch_bytes + thread_bytes
    slots = recipe.n_slots(work.memory_bytes, other_bytes=others)
    return Memory(slots, max_inflight, n_batches, thread_bytes)


def make_engine(
    recipe: Recipe, memory: Memory, destination: Destination, goal: Placement
) -> Engine:
    """The engine of a recipe.

    Raises:
        MismatchError: JAX would change values, or a sharding does not divide a batch.
    """
    schedule = recipe.schedule
    if destination.to == "jax" and destination.batch_transform is None:
        check_dtypes(recipe.specs())
    target = destination.target
    is_global = isinstance(goal, Global)
    check_batch_size(target, schedule.batch_size if is_global else len(recipe.positions))

    def gather(recipe: Recipe, blocks: Blocks) -> Gather:
        if destination.shuffles_on_device:
            return DeviceGather(recipe, blocks, target)
        return HostGather(recipe, blocks)

    transform = destination.device_transform
    return Engine(
        recipe,
        memory.n_slots,
        max_inflight=memory.max_inflight,
        gather=gather,
        finish=Finish(goal, schedule.batch_size, schedule.n_rows, transform),
    )


def _n_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
