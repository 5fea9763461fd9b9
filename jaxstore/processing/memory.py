"""How many items are computed at once, and how many make a unit, so that a limit holds.

Owned here: the decision, as data, from the compiled program's own account of its memory. It looks
at the limit, the shapes and the program, never at how many workers there are: sizes change bits.

    batch   items of one call of the program; its footprint is small enough for a cache
    unit    whole batches, whole chunks of the source where that fits; what is read, written, marked
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxstore.errors import TooLargeError
from jaxstore.sizes import size

# Measured on two CPU cores, (n, 4096) float32: an FFT with a peak, and an elementwise kernel, take
# the same time for footprints of 4 to 32 MiB, 1.4 times that for 1 MiB, 1.8 times for 64 MiB.
_CPU_BATCH_BYTES = 16 << 20  # that a batch is planned for; temporaries count twice
_CPU_MOST_BYTES = 32 << 20  # up to which the first plan stays: a smaller batch costs a compilation
_CPU_UNIT_BYTES = 64 << 20
_ACCELERATOR_BYTES = 256 << 20  # of a batch and of a unit; it hides what a launch and a copy cost
_SHARE = 8  # of the limit: items and outputs of a unit take a part, program or encoding another
_PROBE_ITEMS = 8  # from here on what a program takes grows evenly (measured)
_CHUNK_BYTES = 16 << 20  # of the result; larger ones are cut along the axes of an item


class Sized(Protocol):
    """A compiled program."""

    @property
    def n_bytes(self) -> int:
        """What it takes while it runs."""
        ...


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be computed, in sizes."""

    n_items: int
    item_bytes: int  # of one item in
    out_bytes: int  # of one item out; 0 if a reduction keeps none of them
    chunk_rows: int  # items that the source stores together
    n_units_wanted: int  # at least, where there are items enough: for workers, and for resuming
    is_picked: bool = False  # some items of the source, perhaps a few of each chunk

    def __post_init__(self) -> None:
        if min(self.n_items, self.chunk_rows, self.n_units_wanted) < 1:
            raise ValueError(f"there must be items, chunks and units: {self}")

    @property
    def most_items(self) -> int:
        """Of a unit, so that there are units enough."""
        return -(-self.n_items // self.n_units_wanted)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Sizes of batches and units, and what they take."""

    batch_size: int
    unit_items: int
    batch_bytes: int  # of the program while it runs
    unit_bytes: int  # of one unit in flight, its program included
    memory_bytes: int  # the limit

    @property
    def most_inflight(self) -> int:
        """Units that may be read, computed or written at a time."""
        return max(1, self.memory_bytes // self.unit_bytes)

    def n_inflight(self, wanted: int) -> int:
        """Units in flight, of so many that would be of use."""
        return min(wanted, self.most_inflight)

    def projected_bytes(self, wanted: int) -> int:
        """What so many units in flight take."""
        return self.n_inflight(wanted) * self.unit_bytes


def plan_batch(
    compile_for: Callable[[int], Sized], demand: Demand, *, memory_bytes: int, platform: str
) -> BatchPlan:
    """Sizes that keep a limit.

    The largest that its items and outputs allow is compiled first. Where temporaries make it too
    large, a smaller one beside it tells what an item takes: the one that would do if what a batch
    takes were all its items', as it mostly is, so that it is the batch.

    Args:
        compile_for: Of a batch size, its program; remembers them, since one is asked for again.
        demand: What is to be computed.
        memory_bytes: The limit.
        platform: Of the device, "cpu" or another.

    Raises:
        TooLargeError: A single item does not fit.
    """
    is_cpu = platform == "cpu"
    share = memory_bytes // _SHARE
    footprint = min(share, _CPU_BATCH_BYTES if is_cpu else _ACCELERATOR_BYTES)
    held = min(share, _CPU_UNIT_BYTES if is_cpu else _ACCELERATOR_BYTES)
    fitting = max(1, held // max(1, demand.item_bytes + demand.out_bytes))
    most = min(fitting, 1 << (demand.most_items - 1).bit_length())
    wanted = min(most, footprint // max(1, demand.item_bytes + demand.out_bytes))
    fixed = 0
    first = batch_near(max(1, wanted), demand.chunk_rows, fitting)
    kept = min(share, _CPU_MOST_BYTES) if is_cpu else footprint
    if first > _PROBE_ITEMS and (n_bytes := compile_for(first).n_bytes) > kept:
        fewer = batch_near(
            max(_PROBE_ITEMS, first * footprint // n_bytes), demand.chunk_rows, fitting
        )
        fixed, per_item = _cost(compile_for, fewer, first)
        wanted = min(wanted, min(footprint, max(share - fixed, share // 2)) // per_item)
    while True:
        batch_size = batch_near(max(1, wanted), demand.chunk_rows, fitting)
        batch_bytes = compile_for(batch_size).n_bytes
        if batch_size == 1 or batch_bytes <= max(share, fixed + footprint):
            break
        wanted = batch_size // 2
    unit_items = unit_near(demand.most_items, batch_size, demand.chunk_rows, fitting)
    unit_items = min(unit_items, demand.n_items)
    return planned(demand, batch_size, unit_items, batch_bytes, memory_bytes)


def planned(
    demand: Demand, batch_size: int, unit_items: int, batch_bytes: int, memory_bytes: int
) -> BatchPlan:
    """What given sizes take; those of a result that is continued are recorded there.

    A unit holds its items and its outputs; and while it is read a stored chunk, while it is
    computed the program's memory, while it is written its encoded chunks.

    Raises:
        TooLargeError: A single unit does not fit.
    """
    into, out = unit_items * demand.item_bytes, unit_items * demand.out_bytes
    is_cut = unit_items % demand.chunk_rows and unit_items < demand.n_items
    is_shared = is_cut or demand.is_picked
    chunk = demand.chunk_rows * demand.item_bytes
    if not is_shared:
        chunk = min(chunk, into)  # one that is decoded in its place still comes encoded
    unit_bytes = into + out + max(batch_bytes, out, chunk)
    if unit_bytes > memory_bytes:
        enough = -(-unit_bytes * 4 // 3 // 2**20)  # a larger limit brings larger batches and units
        what = "one item takes" if unit_items == 1 else f"a unit of {unit_items} items takes"
        raise TooLargeError(
            f"{what} {size(unit_bytes)}, and memory is {size(memory_bytes)}: {size(into)} in, "
            f"{size(out)} out, beside them {size(batch_bytes)} to compute {batch_size} at once, "
            f"{size(chunk)} for a stored chunk, {size(out)} to encode. Give memory="
            f'"{enough} MiB" or more, or make items smaller.'
        )
    return BatchPlan(batch_size, unit_items, batch_bytes, unit_bytes, memory_bytes)


def batch_near(wanted: int, chunk_rows: int, most_items: int) -> int:
    """A batch size that suits the chunks of the source, at most `wanted` and over half of it.

    Whole batches and whole chunks should make a unit of few items; where none does, a power of 2.

    >>> batch_near(128, 32, 10**6), batch_near(128, 1000, 10**6), batch_near(128, 1009, 10**4)
    (128, 125, 128)
    """
    power = 1 << (wanted.bit_length() - 1)
    if chunk_rows <= power:
        return power // chunk_rows * chunk_rows
    sizes = range(power, power // 2, -1)
    best = min(sizes, key=lambda size: math.lcm(size, chunk_rows))
    return best if math.lcm(best, chunk_rows) <= most_items else power


def unit_near(wanted: int, batch_size: int, chunk_rows: int, most_items: int) -> int:
    """Items of a unit: whole batches, and whole chunks of the source where they fit.

    Chunks come before `wanted`: one that two units share is read and decoded twice.

    >>> unit_near(1000, 128, 256, 4096), unit_near(1000, 128, 1009, 4096), unit_near(1, 8, 32, 99)
    (768, 896, 32)
    """
    step = math.lcm(batch_size, chunk_rows)
    if step > most_items:
        step = batch_size
    return max(1, min(wanted, most_items) // step) * step


def chunk_shape(inner_shape: Sequence[int], itemsize: int, unit_items: int) -> tuple[int, ...]:
    """Chunks of an output: a unit along the items, cut within them where that is too much.

    >>> chunk_shape((3, 4), 4, 10), chunk_shape((4096, 4096), 4, 1)
    ((10, 3, 4), (1, 2048, 2048))
    """
    inner = [max(1, n) for n in inner_shape]  # there are no chunks of length 0
    while unit_items * math.prod(inner) * itemsize > _CHUNK_BYTES and max(inner, default=1) > 1:
        longest = inner.index(max(inner))
        inner[longest] = -(-inner[longest] // 2)
    return (unit_items, *inner)


def _cost(compile_for: Callable[[int], Sized], few: int, many: int) -> tuple[int, int]:
    """Bytes of a program for any batch, and for each item, by two batches."""
    few_bytes = compile_for(few).n_bytes
    per_item = max(1, -(-(compile_for(many).n_bytes - few_bytes) // (many - few)))
    return max(0, few_bytes - few * per_item), per_item
