"""What is computed: all that decides the bits of a result, and nothing else.

Owned here: from what a user asks for to open sources, kernels, and the record by which equal
computations are found. How the work is cut is `cut`, who does it `crew`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.processing.beside import address_of
from jaxstore.processing.ensemble_simulation import Trajectory, with_times
from jaxstore.processing.identity import identity_of
from jaxstore.processing.kernel import Kernel, kernel_of
from jaxstore.processing.outputs import SELECT, Output, outputs_of
from jaxstore.processing.params import EncodedParams, encode_params
from jaxstore.processing.reduce import Reduce, Reduction, fingerprint_of, result_of
from jaxstore.processing.reductions import reduction
from jaxstore.processing.same import Computation
from jaxstore.processing.selection import Selection, select_items
from jaxstore.processing.sourcing import Sources, is_place, open_sources
from jaxstore.processing.units import Channels
from jaxstore.processing.work import Hooks
from jaxstore.sources.stamp import stamp
from jaxstore.stores.base import Json

_MOST_REDUCED = 2**31 - 1  # items; they are counted in 32 bits


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asks to have computed."""

    function: Callable[..., PyTree[Any]]
    source: PyTree[Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""  # "": that of the function
    version: str | None = None
    select: Any = None
    axis: PyTree[int] = 0
    dtype: PyTree[Any] = None
    reduce: str | Reduce | None = None
    chan_per_worker: int | None = None
    channel_axis: int = 0
    source_token: str = "stat"
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_batched: bool = False
    is_strict: bool = False
    is_growing: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=Hooks)

    @property
    def process_name(self) -> str:
        """Of the process, for the names of its results."""
        if self.name:
            return self.name
        found = getattr(self.function, "__name__", "")
        return found if found.isidentifier() else "process"


@dataclass(frozen=True, slots=True)
class Recipe:
    """An order that was understood: its sources are open."""

    order: Order
    params: EncodedParams
    sources: Sources
    selection: Selection
    channels: Channels | None
    kernels: tuple[Kernel, ...]  # for a block of channels, and for the last if it has fewer
    reduction: Reduction | None
    outputs: tuple[Output, ...]
    computation: Computation = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "computation", _computation(self))

    @property
    def trajectory(self) -> Trajectory | None:
        """What is computed in blocks of times, if that is so."""
        function = self.order.function
        is_whole = self.reduction is not None  # a reduction takes trajectories as they are
        return function if isinstance(function, Trajectory) and not is_whole else None

    @property
    def shown_items(self) -> int | None:
        """Items of a result that may have more; None where it has just those of the order."""
        return self.selection.n_items if self.order.is_growing else None

    @property
    def stored_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """What is kept of it as arrays: parameters, and the items that are taken."""
        if self.selection.indices is None:
            return self.params.arrays
        return {**self.params.arrays, SELECT: self.selection.indices}

    @property
    def settings(self) -> dict[str, Json]:
        """How it was asked for, in words that can be given again."""
        order = self.order
        shown = jax.tree.map(_address, order.source, is_leaf=is_place)
        dtypes = self.sources.structure.unflatten(map(str, self.sources.dtypes))
        return {
            "source": shown,
            "name": order.process_name,
            "version": order.version,
            "axis": order.axis,
            "dtype": None if order.dtype is None else dtypes,
            "reduce": None if self.reduction is None else self.reduction.name,
            "chan_per_worker": order.chan_per_worker,
            "channel_axis": order.channel_axis,
            "source_token": order.source_token,
            "batched": order.is_batched,
            "strict": order.is_strict,
        }

    def check_sources(self) -> None:
        """Refuse a result whose sources were changed while it was computed.

        Raises:
            MismatchError: One was; looked for where a stamp tells, not where values would have to
                be read again.
        """
        for source, identity in zip(self.sources.leaves, self.computation.sources, strict=True):
            if identity.kind == "stat" and stamp(source) != identity.mark:
                raise MismatchError(
                    f"{identity.name} in {identity.place} was changed while it was processed, so "
                    "the result is of no state of it, and stays partial. Process it again."
                )

    def close(self) -> None:
        """Let go of the sources."""
        self.sources.close()


def make_recipe(order: Order) -> Recipe:
    """Open the sources of an order, and trace its function; nothing is computed.

    Raises:
        MismatchError: Sources, function, parameters and channels do not go together.
        JaxstoreError: As for `open_sources`.
        Exception: What the function raises while it is traced.
    """
    params = encode_params(order.params)
    reducing = None if order.reduce is None else reduction(order.reduce)
    sources = open_sources(
        order.source, axis=order.axis, dtype=order.dtype, is_strict=order.is_strict
    )
    try:
        selection = select_items(order.select, sources.n_items)
        if reducing is not None and selection.n_items > _MOST_REDUCED:
            raise MismatchError(
                f"reduce counts up to {_MOST_REDUCED:,} items, here are {selection.n_items:,}. "
                "Reduce parts of them by select, and combine these."
            )
        channels = _channels(order, sources)
        kernels = _kernels(order, sources, channels)
        out = _whole_out(kernels[0], channels)
        if reducing is not None:
            out = result_of(reducing, out)
        outputs = outputs_of(out, order.dims)
        if isinstance(order.function, Trajectory):
            outputs = tuple(with_times(output, order.dims) for output in outputs)
        return Recipe(order, params, sources, selection, channels, kernels, reducing, outputs)
    except BaseException:
        sources.close()
        raise


def _address(place: Any) -> Json:
    try:
        return str(address_of(place))
    except MismatchError:
        return None  # in memory, or behind a handle


def _channels(order: Order, sources: Sources) -> Channels | None:
    if order.chan_per_worker is None:
        return None
    if order.reduce is not None:
        raise MismatchError(
            "chan_per_worker does not go with reduce: a state is of whole items. Leave it out, or "
            "reduce the result of a process by channels."
        )
    shapes = {leaf.geometry.inner_shape for leaf in sources.leaves}
    axis = order.channel_axis
    sizes = {shape[axis] if -len(shape) <= axis < len(shape) else None for shape in shapes}
    size = sizes.pop()
    if size is None or sizes:
        raise MismatchError(
            f"channel_axis is {axis}, but items have shape {sorted(shapes)}. Every source must "
            "have as many channels along that axis of an item."
        )
    ndim = len(next(iter(shapes)))
    return Channels(axis % ndim, size, min(order.chan_per_worker, size))


def _kernels(order: Order, sources: Sources, channels: Channels | None) -> tuple[Kernel, ...]:
    blocks = [0] if channels is None else sorted({0, channels.n_blocks - 1})
    kernels = tuple(
        kernel_of(
            order.function,
            sources.item(channels, block),
            order.params,
            is_batched=order.is_batched,
        )
        for block in blocks
    )
    if channels is not None:
        for block, kernel in zip(blocks, kernels, strict=True):
            part = channels.within(block)
            _check_channels(kernel, channels, part.stop - part.start)
    return kernels


def _check_channels(kernel: Kernel, channels: Channels, n: int) -> None:
    for leaf in jax.tree.leaves(kernel.out):
        if len(leaf.shape) <= channels.axis or leaf.shape[channels.axis] != n:
            raise MismatchError(
                f"the kernel makes {leaf.shape} of {n} channels. With chan_per_worker, axis "
                f"{channels.axis} of each output must be that of the channels, one for each."
            )


def _whole_out(kernel: Kernel, channels: Channels | None) -> PyTree[jax.ShapeDtypeStruct]:
    """What the kernel gives for an item with all its channels."""
    if channels is None:
        return kernel.out
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(channels.resized(leaf.shape, channels.n), leaf.dtype),
        kernel.out,
    )


def _computation(recipe: Recipe) -> Computation:
    """The record by which equal computations are found."""
    order, sources, channels = recipe.order, recipe.sources, recipe.channels
    places = jax.tree_util.tree_leaves_with_path(order.source, is_leaf=is_place)
    identities = [
        identity_of(jax.tree_util.keystr(path), place, source, token=order.source_token)
        for (path, place), source in zip(places, sources.leaves, strict=True)
    ]
    return Computation(
        name=order.process_name,
        program=recipe.kernels[0].traced.fingerprint,
        jax=jax.__version__,
        version=order.version,
        params=recipe.params.json,
        sources=tuple(identities),
        selection=recipe.selection.digest,
        reduce=recipe.reduction and fingerprint_of(recipe.reduction, recipe.kernels[0].out),
        channels=None if channels is None else [channels.axis, channels.block],
        cast=None if order.dtype is None else [str(dtype) for dtype in sources.dtypes],
        is_growing=order.is_growing,
    )
