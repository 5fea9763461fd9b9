"""A batch: what a loader gives.

Owned here: the record, and how it goes through `jit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from jaxstore.loading.shuffle import Rows
from jaxstore.sources.geometry import Array


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Rows of every variable, in the same order.

    As an argument of a jitted function it carries `arrays`, `mask` and `observation_count`; what
    else it tells is for the host.
    """

    arrays: Mapping[str, Any]  # by label, (batch, ...) each
    mask: ArrayLike  # shape=(batch,), dtype=bool; False where a row only fills up the last batch
    observation_count: ArrayLike  # shape=(), rows of the split in all
    rows: Rows | None  # of this process's part, as in the store; -1 where it only fills up
    epoch: int | None  # that it belongs to
    index: int | None  # of it in the epoch

    def __getitem__(self, label: str) -> Any:
        return self.arrays[label]

    def __repr__(self) -> str:
        shown = ", ".join(f"{label}: {_shown(value)}" for label, value in self.arrays.items())
        at = "" if self.index is None else f" {self.index} of epoch {self.epoch}"
        return f"<Batch{at} {shown}>"


def count_of(n_rows: int) -> np.number[Any]:
    """Rows of a split as JAX can hold them: where its integers are too narrow, a float.

    >>> count_of(1000).item()
    1000
    """
    wide = jax.dtypes.canonicalize_dtype(np.int64)
    return wide.type(n_rows) if n_rows <= np.iinfo(wide).max else np.float32(n_rows)


def _shown(value: Any) -> str:
    # Leaves of a batch that went through a map over trees may be anything.
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "dtype") else repr(value)


def _flatten(batch: Batch) -> tuple[tuple[tuple[Any, Any], ...], None]:
    fields = ("arrays", "mask", "observation_count")
    key = jax.tree_util.GetAttrKey
    # A number of the epoch among what is static would compile anew for each batch.
    return tuple((key(field), getattr(batch, field)) for field in fields), None


def _unflatten(_: None, children: Any) -> Batch:
    arrays, mask, observation_count = children
    return Batch(arrays, mask, observation_count, None, None, None)


jax.tree_util.register_pytree_with_keys(Batch, _flatten, _unflatten)


@dataclass(slots=True)
class HostBatch:
    """A batch before it goes to a device: the part of it that this process fills."""

    arrays: dict[str, Any]
    mask: Array  # shape=(positions,), dtype=bool
    rows: Rows
    seeds: Array  # shape=(positions,), dtype=uint64; randomness of each row in its epoch
    epoch: int
    index: int

    @staticmethod
    def blank(arrays: dict[str, Any], n: int, *, epoch: int, index: int) -> HostBatch:
        """A batch of n positions whose rows are not yet in it."""
        return HostBatch(
            arrays, np.ones(n, bool), np.empty(n, np.int64), np.empty(n, np.uint64), epoch, index
        )
