"""What a user asks of a loader, checked.

Owned here: which settings make sense, and the words for those that do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.sharding import Sharding

from jaxstore.errors import MismatchError
from jaxstore.loading.device import DeviceTransform, To
from jaxstore.loading.epoch import REMAINDERS, Remainder
from jaxstore.loading.recipe import BatchTransform
from jaxstore.sizes import parse_size
from jaxstore.topology import Place, place

_MOST_SEED = 2**128  # what a generator takes in as it is


@dataclass(frozen=True, slots=True)
class Order:
    """What decides which rows are in which batch."""

    batch_size: int
    seed: int
    is_shuffled: bool
    window_chunks: int | None
    remainder: Remainder

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        at_least("seed", self.seed, 0)
        if self.seed >= _MOST_SEED:
            raise ValueError(f"seed must be below 2**128, got {self.seed}")
        if self.window_chunks is not None:
            at_least("window_chunks", self.window_chunks, 1)
        if self.remainder not in REMAINDERS:
            raise ValueError(f"remainder is {self.remainder!r}. Choose one of {REMAINDERS}.")


@dataclass(frozen=True, slots=True)
class Work:
    """How batches are made, which changes nothing about them."""

    prefetch: int  # batches made ahead; 0 makes them when they are asked for
    max_inflight: int | None
    memory_bytes: int | None
    is_strict: bool
    shows_progress: bool

    def __post_init__(self) -> None:
        at_least("prefetch", self.prefetch, 0)
        if self.max_inflight is not None:
            at_least("max_inflight", self.max_inflight, 1)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where batches go, and what is done to them on the way."""

    to: To
    where: Place
    target: jax.Device | Sharding | None
    batch_transform: BatchTransform | None
    device_transform: DeviceTransform | None
    shuffles_on_device: bool

    def __post_init__(self) -> None:
        if self.to not in ("jax", "numpy"):
            raise ValueError(f"to is {self.to!r}. Choose 'jax' or 'numpy'.")
        if self.to == "numpy" and (self.target is not None or self.device_transform is not None):
            raise ValueError(
                "to='numpy' gives arrays of NumPy, which go to no device. Leave out device, "
                "sharding and device_transform, or to='numpy'."
            )
        if self.shuffles_on_device:
            if self.to == "numpy" or isinstance(self.target, Sharding):
                raise ValueError(
                    "shuffle_on='device' keeps the windows on one device. Leave out sharding and "
                    "to='numpy'."
                )
            if self.batch_transform is not None:
                raise ValueError(
                    "with shuffle_on='device' no batch is ever on the host for batch_transform. "
                    "Give device_transform, or transform= of a variable."
                )


def parse_work(
    *,
    prefetch: int,
    max_inflight: int | None,
    memory: int | str | None,
    strict: bool,
    progress: bool,
) -> Work:
    """The settings of the work, from what a user gave."""
    memory_bytes = None if memory is None else parse_size(memory, what="memory")
    return Work(prefetch, max_inflight, memory_bytes, strict, progress)


def parse_destination(
    *,
    to: To,
    device: jax.Device | None,
    sharding: Sharding | None,
    batch_transform: BatchTransform | None,
    device_transform: DeviceTransform | None,
    shuffle_on: Literal["host", "device"],
    process_index: int | None,
    process_count: int | None,
) -> Destination:
    """Where batches go, from what a user gave.

    Raises:
        ValueError: Settings that do not go together.
        MismatchError: A sharding over several processes, and numbers of processes beside it.
    """
    if device is not None and sharding is not None:
        raise ValueError("device and sharding are both given. Give the one that you mean.")
    if shuffle_on not in ("host", "device"):
        raise ValueError(f"shuffle_on is {shuffle_on!r}. Choose 'host' or 'device'.")
    if sharding is not None and not isinstance(sharding, Sharding):
        raise TypeError(f"sharding is a {type(sharding).__name__}. Give a jax.sharding.Sharding.")
    is_numbered = process_index is not None or process_count is not None
    if sharding is not None and not sharding.is_fully_addressable and is_numbered:
        raise MismatchError(
            "this sharding goes over the devices of several processes, so it says which rows are "
            "whose. Leave out process_index and process_count."
        )
    return Destination(
        to,
        _place(process_index, process_count),
        device if sharding is None else sharding,
        batch_transform,
        device_transform,
        shuffle_on == "device",
    )


def _place(index: int | None, count: int | None) -> Place:
    if index is None and count is None:
        return place()
    if index is None or count is None:
        raise ValueError("process_index and process_count go together. Give both, or neither.")
    return Place(index, count, "alone")


def at_least(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least so many."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
