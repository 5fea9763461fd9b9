"""Batches from the host onto devices.

Owned here: where the rows of a batch go, which of them this process needs for that, and that no
value is changed on the way. JAX makes int32 of int64 without a word unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from jaxstore.errors import MismatchError
from jaxstore.loading.batch import Batch, HostBatch, count_of
from jaxstore.loading.buffers import Spec
from jaxstore.loading.epoch import share
from jaxstore.loading.randomness import as_words, row_keys
from jaxstore.loading.shuffle import Rows
from jaxstore.sources.geometry import Array
from jaxstore.topology import Place

To = Literal["jax", "numpy"]
Arrays = Mapping[str, Any]
DeviceTransform = Callable[[dict[str, jax.Array], jax.Array], Arrays]


class Placement(Protocol):
    """Where batches go."""

    @property
    def positions(self) -> Rows:
        """Of each batch, which this process fills."""
        ...

    def place(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays of this process's rows, where they belong."""
        ...


@dataclass(frozen=True, slots=True)
class OnHost:
    """NumPy arrays of this process's share."""

    positions: Rows

    def place(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays as they are."""
        return dict(values)


@dataclass(frozen=True, slots=True)
class OnDevices:
    """Arrays of this process's share, on a device or over the devices of this process."""

    positions: Rows
    target: jax.Device | Sharding | None

    def place(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """One transfer for all of them."""
        check_dtypes(values)
        target = self.target
        if not isinstance(target, Sharding):
            return dict(jax.device_put(dict(values), target))
        targets = {label: for_ndim(target, np.ndim(value)) for label, value in values.items()}
        return dict(jax.device_put(dict(values), targets))


@dataclass(frozen=True, slots=True)
class Global:
    """Arrays of whole batches over the devices of several processes."""

    positions: Rows  # that the devices of this process hold
    sharding: Sharding
    batch_size: int

    def place(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Each device of this process gets its part; all processes together have the batch."""
        check_dtypes(values)

        def put(value: Array) -> jax.Array:
            shape = (self.batch_size, *value.shape[1:])

            def part(index: tuple[slice, ...] | None) -> Array:
                rows, *inner = index or (slice(None),)
                start, stop, _ = rows.indices(self.batch_size)
                first, last = np.searchsorted(self.positions, [start, stop])
                return value[(slice(int(first), int(last)), *inner)]

            sharding = for_ndim(self.sharding, value.ndim)
            return jax.make_array_from_callback(shape, sharding, part, dtype=value.dtype)

        return {label: put(value) for label, value in values.items()}


def placement(
    to: To, where: Place, target: jax.Device | Sharding | None, batch_size: int
) -> Placement:
    """Where batches go, by what a caller asks for."""
    if to == "jax" and isinstance(target, Sharding) and not target.is_fully_addressable:
        return Global(_held_here(target, batch_size), target, batch_size)
    positions = share(batch_size, where.rank, where.size)
    return OnHost(positions) if to == "numpy" else OnDevices(positions, target)


def _held_here(sharding: Sharding, batch_size: int) -> Rows:
    """Positions of a batch that the devices of this process hold."""
    parts = for_ndim(sharding, 1).addressable_devices_indices_map((batch_size,))
    held = np.zeros(batch_size, bool)
    for index in parts.values():
        held[(index or (slice(None),))[0]] = True
    return np.flatnonzero(held)


def check_batch_size(target: jax.Device | Sharding | None, n_rows: int) -> None:
    """Refuse batches that cannot be cut into equal parts.

    Raises:
        MismatchError: A sharding does not divide so many rows.
    """
    if not isinstance(target, Sharding):
        return
    try:
        for_ndim(target, 1).shard_shape((n_rows,))
    except ValueError as error:
        raise MismatchError(
            f"a batch of {n_rows} rows cannot be spread as {target}: {error}. Choose a batch_size "
            "that its devices divide."
        ) from error


def for_ndim(sharding: Sharding, ndim: int) -> Sharding:
    """A sharding for arrays that have fewer axes than it names; rows stay where they are."""
    if isinstance(sharding, NamedSharding) and len(sharding.spec) > ndim:
        return NamedSharding(
            sharding.mesh, PartitionSpec(*sharding.spec[:ndim]), memory_kind=sharding.memory_kind
        )
    return sharding


def check_dtypes(values: Mapping[str, Array | Spec]) -> None:
    """Refuse what JAX would change.

    Raises:
        MismatchError: A dtype of 64 bits, while JAX is set to 32.
    """
    for label, value in values.items():
        if isinstance(value, jax.Array):
            continue
        kept = jax.dtypes.canonicalize_dtype(value.dtype)
        if kept != value.dtype:
            raise MismatchError(
                f"{label!r} is {value.dtype}, and JAX would make {kept} of it without a word. "
                "Set jax.config.update('jax_enable_x64', True), or cast it yourself: "
                f"variables={{{label!r}: js.Variable(..., dtype='{kept}')}}, or take to='numpy'."
            )


class Finish:
    """The last step of a batch: onto its devices, and through a transform there.

    Args:
        where: They go.
        observation_count: Rows of the split.
        transform: Of arrays and a key per row, compiled once.
    """

    def __init__(
        self, where: Placement, observation_count: int, transform: DeviceTransform | None
    ) -> None:
        self._where = where
        self._count = count_of(observation_count)
        self._transform = None if transform is None else jax.jit(_keyed(transform))

    def batch(self, host: HostBatch) -> Batch:
        """A batch as its user gets it."""
        seeds = {} if self._transform is None else {_SEEDS: as_words(host.seeds)}
        placed = self._where.place({**host.arrays, _MASK: host.mask, **seeds})
        mask = placed.pop(_MASK)
        arrays: Arrays = placed
        if self._transform is not None:
            words = placed.pop(_SEEDS)
            arrays = self._transform(placed, words)
        return Batch(dict(arrays), mask, self._count, host.rows, host.epoch, host.index)


_MASK, _SEEDS = "\0mask", "\0seeds"  # beside labels of users, of which these are none


def _keyed(transform: DeviceTransform) -> Callable[[dict[str, jax.Array], jax.Array], Arrays]:
    def keyed(arrays: dict[str, jax.Array], words: jax.Array) -> Arrays:
        return transform(arrays, row_keys(words))

    return keyed
