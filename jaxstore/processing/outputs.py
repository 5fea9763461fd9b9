"""The arrays of a result: what they are called, and how they are cut into chunks.

Owned here: every decision about the layout of a result, as data. What the kernel gives is
`kernel`'s, how arrays come into a store is `stores.results`.

    <result>/<leaf>          (item, *leaf.shape), a unit is whole chunks; leaf.shape of a reduction
    <result>/_partials/<i>   (unit, *state.shape), of reductions
    <result>/_params/<name>  values of array parameters, and the items that were selected
    <result>/_errors         (item, block, byte): what went wrong with an item that failed
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import FormatError, MismatchError
from jaxstore.names import keys_from_json, keys_to_json
from jaxstore.processing.memory import chunk_shape
from jaxstore.processing.units import Channels, Units
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.dtypes import parse_dtype
from jaxstore.stores.results import Region
from jaxstore.stores.results_roles import STATUS
from jaxstore.tree import leaf_names

ITEM = "item"  # name of the axis of items
BARE = "result"  # name of the output of a kernel that gives one array
ERRORS = "_errors"
PARTIALS = "_partials"
PARAMS = "_params"
SELECT = "select%items"  # beside the parameters; no keyword is called so
ERROR_BYTES = 256
_RESERVED = frozenset({ITEM, ERRORS, PARTIALS, PARAMS, STATUS})


@dataclass(frozen=True, slots=True)
class Output:
    """One array that the kernel gives for each item, or a reduction for all."""

    keys: tuple[Any, ...]  # in the pytree
    name: str  # in the result, "fit/amp"
    shape: tuple[int, ...]  # without the axis of items
    dtype: np.dtype[Any]
    dims: tuple[str, ...]

    @property
    def item_bytes(self) -> int:
        """Of one item."""
        return math.prod(self.shape) * self.dtype.itemsize

    def to_json(self) -> Json:
        """This record for the manifest."""
        return {
            "keys": keys_to_json(self.keys),
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "dims": list(self.dims),
        }

    @staticmethod
    def from_json(record: Mapping[str, Json]) -> Output:
        """A record out of a manifest.

        Raises:
            FormatError: It is none.
        """
        try:
            return Output(
                tuple(keys_from_json(record["keys"])),
                str(record["name"]),
                tuple(map(int, record["shape"])),
                parse_dtype(str(record["dtype"])),
                tuple(map(str, record["dims"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{record!r} does not describe an array of a result.") from error


def outputs_of(out: PyTree[Any], dims: Mapping[str, Sequence[str]]) -> tuple[Output, ...]:
    """The arrays for what a kernel gives, in the order of its leaves.

    Args:
        out: Shapes and dtypes, without the axis of items.
        dims: Names of the axes of some outputs, without that of items.

    Raises:
        MismatchError: Dims of an output that is not there, or not one per axis.
    """
    named = leaf_names(out, reserved=_RESERVED, bare=BARE)
    if unknown := sorted(set(dims) - {leaf.name for leaf in named}):
        raise MismatchError(
            f"dims are given for {unknown}, the outputs are {[leaf.name for leaf in named]}."
        )
    return tuple(
        Output(leaf.keys, leaf.name, tuple(s.shape), np.dtype(s.dtype), _dims(leaf.name, s, dims))
        for leaf, s in zip(named, jax.tree.leaves(out), strict=True)
    )


def _dims(name: str, struct: Any, dims: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    last = name.rpartition("/")[2]
    found = tuple(dims.get(name, (f"{last}_dim_{i}" for i in range(len(struct.shape)))))
    if len(found) != len(struct.shape):
        raise MismatchError(f"{name!r} is {struct.shape} for an item, its dims are {found}.")
    return found


def item_spec(
    output: Output, units: Units, channels: Channels | None, block_times: int | None = None
) -> ArraySpec:
    """How an output of all items lies in the result."""
    widest = output.shape if channels is None else channels.resized(output.shape, channels.block)
    chunks = [*chunk_shape(widest, output.dtype.itemsize, units.unit_items)]
    if channels is not None:  # a block is whole chunks
        chunks[1 + channels.axis] = channels.block
    if block_times is not None:  # so is a block of times
        chunks[1:] = [block_times, *(max(1, n) for n in output.shape[1:])]
    return ArraySpec(
        output.name,
        (units.n_items, *output.shape),
        tuple(chunks),
        output.dtype,
        (ITEM, *output.dims),
    )


def whole_spec(output: Output) -> ArraySpec:
    """How an output of a reduction lies in the result."""
    chunks = tuple(max(n, 1) for n in output.shape)
    return ArraySpec(output.name, output.shape, chunks, output.dtype, output.dims)


def partial_specs(states: Sequence[Any], units: Units) -> list[ArraySpec]:
    """How the states of a reduction lie in the result, one of each unit."""
    return [
        ArraySpec(
            f"{PARTIALS}/{i}",
            (units.n_units, *state.shape),
            (1, *(max(n, 1) for n in state.shape)),
            np.dtype(state.dtype),
            ("unit", *(f"state_{i}_dim_{k}" for k in range(len(state.shape)))),
        )
        for i, state in enumerate(states)
    ]


def errors_spec(units: Units) -> ArraySpec:
    """How the words on failed items lie in the result; of other items nothing is written."""
    shape = (units.n_items, units.n_blocks, ERROR_BYTES)
    chunks = (units.unit_items, 1, ERROR_BYTES)
    return ArraySpec(ERRORS, shape, chunks, np.dtype(np.uint8), (ITEM, "block", "byte"))


def unit_regions(
    unit: int, units: Units, channels: Channels | None, outputs: Sequence[Output]
) -> Iterator[tuple[str, Region]]:
    """What a unit writes of each output."""
    items = units.items(unit)
    for output in outputs:
        region = [slice(items.start, items.stop), *(slice(0, n) for n in output.shape)]
        if channels is not None:
            region[1 + channels.axis] = channels.within(units.block(unit))
        yield output.name, tuple(region)


def partial_regions(unit: int, states: Sequence[Any]) -> Iterator[tuple[str, Region]]:
    """What a unit writes of each state of a reduction."""
    for i, state in enumerate(states):
        shape = tuple(slice(0, n) for n in state.shape)
        yield f"{PARTIALS}/{i}", (slice(unit, unit + 1), *shape)
