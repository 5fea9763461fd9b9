"""From a recipe to batches on their devices: the stages one after the other.

Owned here: which memory an epoch uses, and that it is given back. Iterators that go on at the same
time have memory of their own; the first to end leaves its for the next.
"""

from __future__ import annotations

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
from jaxstore.loading.memory import Memory
from jaxstore.loading.options import Destination
from jaxstore.loading.position import Position
from jaxstore.loading.recipe import Recipe
from jaxstore.loading.statistics import Clock


@dataclass(frozen=True, slots=True)
class _Room:
    """What one epoch works in."""

    blocks: Blocks
    gather: Gather


class Engine:
    """Makes the batches of epochs.

    Args:
        recipe: What they are made of.
        memory: That an epoch takes.
        gather: Makes what puts batches together.
        finish: The last step.
    """

    def __init__(
        self,
        recipe: Recipe,
        memory: Memory,
        *,
        gather: Callable[[Blocks], Gather],
        finish: Finish,
    ) -> None:
        self._recipe = recipe
        self._memory = memory
        self._gather = gather
        self._finish = finish
        self._idle: _Room | None = None
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
        room = self._take()
        room.blocks.open()
        clock.reads = room.blocks.reads
        coming = host_batches(
            self._recipe,
            room.blocks,
            room.gather,
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
            room.blocks.close()
            self._give_back(room)

    def _take(self) -> _Room:
        with self._lock:
            room, self._idle = self._idle, None
        if room is not None:
            return room
        plan = self._memory
        blocks = Blocks(self._recipe.columns, plan.n_slots, max_inflight=plan.max_inflight)
        return _Room(blocks, self._gather(blocks))

    def _give_back(self, room: _Room) -> None:
        with self._lock:
            self._idle = None if self._is_over else room

    def forget(self) -> None:
        """Keep no memory for a next epoch."""
        with self._lock:
            self._is_over, self._idle = True, None


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

    def gather(blocks: Blocks) -> Gather:
        if destination.shuffles_on_device:
            return DeviceGather(recipe, blocks, target)
        return HostGather(recipe, blocks)

    transform = destination.device_transform
    return Engine(
        recipe,
        memory,
        gather=gather,
        finish=Finish(goal, schedule.n_rows, transform),
    )
