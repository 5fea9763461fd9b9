"""A checkpoint: all that a run needs to go on from a step as if nothing had happened.

Owned here: what lies in one, as a blob and as pytrees. When one is due is told by the program,
where it lies by `recorder`, how those of several senders join by `parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import FormatError, MismatchError
from jaxstore.names import keys_from_json, keys_to_json
from jaxstore.saving.blob import pack
from jaxstore.saving.block import HostArray
from jaxstore.saving.buffer import is_key, raw_shapes
from jaxstore.saving.layout import key_impl_of
from jaxstore.saving.record import Mark
from jaxstore.saving.tail import get_blob
from jaxstore.stores.base import Json, Store
from jaxstore.tree import leaf_names, nest


@dataclass(frozen=True, slots=True)
class StateLeaf:
    """One array of a sampler's state."""

    keys: tuple[Any, ...]  # as in the pytree
    name: str
    shape: tuple[int, ...]  # of one chain, or of all where no lanes are known; key data for keys
    dtype: np.dtype[Any]
    key_impl: str | None  # name of the implementation, for typed PRNG keys

    def __str__(self) -> str:
        return f"{self.name} {self.key_impl or self.dtype}{list(self.shape)}"


StateLayout = tuple[StateLeaf, ...]


def layout_of_state(state: PyTree) -> StateLayout:
    """The leaves of a sampler's state, in the order of `jax.tree.leaves`."""
    leaves = zip(
        leaf_names(state, bare="state"),
        jax.tree.leaves(state),
        jax.tree.leaves(raw_shapes(state)),
        strict=True,
    )
    return tuple(
        StateLeaf(
            leaf.keys,
            leaf.name,
            tuple(shape.shape),
            np.dtype(shape.dtype),
            key_impl_of(value) if is_key(value) else None,
        )
        for leaf, value, shape in leaves
    )


@dataclass(frozen=True, slots=True)
class SenderState:
    """How far the lanes of one sender are; see `lanes.Sender`."""

    named: tuple[int, ...]  # chains as the caller named them, () if numbered by lane
    chains: tuple[int, ...]
    tick: int
    is_ragged: bool
    steps: tuple[int, ...]  # per lane, the last kept step

    def to_json(self) -> Json:
        """This record for a blob."""
        return [*map(list, (self.named, self.chains)), self.tick, self.is_ragged, list(self.steps)]

    @staticmethod
    def from_json(value: Json) -> SenderState:
        """A record out of a blob."""
        named, chains, tick, is_ragged, steps = value
        return SenderState(tuple(named), tuple(chains), tick, is_ragged, tuple(steps))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run's chains after a step, with the draws that precede it.

    `jaxstore.scan` uses it by itself. Programs that call `save` get it from `collector.resume()`.
    """

    step: int  # steps, or calls of `save`, before it
    draws: tuple[int, ...]  # of each chain, before it
    layout: StateLayout
    leaves: tuple[HostArray, ...]  # (*lanes, *leaf.shape) each; typed keys as their key data
    lanes: tuple[int, ...]  # shape of the axes that vmap added
    senders: tuple[SenderState, ...]  # of the chains that go on
    ended: tuple[int, ...] = ()  # chains that get no more draws
    loaders: tuple[Json, ...] = ()  # positions of the registered data loaders
    templates: Mapping[str, PyTree] = field(default_factory=dict)  # by top level of the state

    @property
    def going(self) -> frozenset[int]:
        """Numbers of the chains that go on."""
        return frozenset(chain for sender in self.senders for chain in sender.chains)

    @property
    def sample_count(self) -> HostArray:
        """Draws of each chain before the checkpoint, shape (chain,)."""
        return np.asarray(self.draws, np.int64)

    @property
    def scheduler_state(self) -> PyTree:
        """What `save` was given as `scheduler_state`, with the axes that vmap added in front."""
        return self.part("scheduler_state")

    @property
    def solver_state(self) -> PyTree:
        """What `save` was given as `solver_state`, with the axes that vmap added in front."""
        return self.part("solver_state")

    @property
    def n_bytes(self) -> int:
        """Bytes of the state."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def part(self, key: str) -> PyTree:
        """What lies under a key at the top level of the state; None if nothing does.

        In the structure of its template, if there is one, else as nested dicts.

        Raises:
            MismatchError: The template has other leaves.
        """
        mine = [
            (leaf, array)
            for leaf, array in zip(self.layout, self.leaves, strict=True)
            if leaf.keys[0] == key
        ]
        values = [as_jax(array, leaf) for leaf, array in mine]
        if key in self.templates:
            template = {key: self.templates[key]}
            check_same_state(tuple(leaf for leaf, _ in mine), template, lanes=self.lanes)
            return jax.tree.unflatten(jax.tree.structure(template), values)[key]
        if not mine:
            return None
        return nest((leaf.keys[1:], v) for (leaf, _), v in zip(mine, values, strict=True))

    def __repr__(self) -> str:
        return (
            f"<Checkpoint after step {self.step:,}: {len(self.draws)} chains, "
            f"{sum(self.draws):,} draws, state of {len(self.leaves)} arrays>"
        )


def as_jax(array: HostArray, leaf: StateLeaf) -> Any:
    """An array of the state as JAX had it."""
    value = jnp.asarray(array)
    if value.dtype != array.dtype:
        raise MismatchError(
            f"the checkpoint has {leaf}, which JAX makes {value.dtype} here. Set jax_enable_x64, "
            "as the program did that made the run."
        )
    return jax.random.wrap_key_data(value, impl=leaf.key_impl) if leaf.key_impl else value


def check_same_state(wanted: StateLayout, state: PyTree, *, lanes: tuple[int, ...] = ()) -> None:
    """Refuse a state whose leaves are not those of a checkpoint, naming both sides.

    The state may have the axes of `lanes` in front, or lack them.

    Raises:
        MismatchError: A leaf is missing, new, or of another shape or dtype.
    """
    found = {leaf.name: leaf for leaf in layout_of_state(state)}
    for leaf in wanted:
        other = found.pop(leaf.name, None)
        shapes = (leaf.shape, (*lanes, *leaf.shape))
        if other is None:
            raise MismatchError(
                f"the checkpoint has {leaf}, this state has no such leaf. Go on with the program "
                "that made the run, or save to a new place."
            )
        if (other.dtype, other.key_impl) != (leaf.dtype, leaf.key_impl) or (
            other.shape not in shapes
        ):
            raise MismatchError(
                f"the checkpoint has {leaf}, this state has {other}. Go on with the program that "
                "made the run, or save to a new place."
            )
    if found:
        raise MismatchError(
            f"this state has {', '.join(map(str, found.values()))}, the checkpoint has not. Go on "
            "with the program that made the run, or save to a new place."
        )


def put_checkpoint(store: Store, name: str, mark: Mark, point: Checkpoint) -> None:
    """Put a checkpoint as the blob that a mark names, under an array."""
    meta = {
        "nonce": mark.nonce,
        "step": point.step,
        "draws": list(point.draws),
        "lanes": list(point.lanes),
        "leaves": [
            [keys_to_json(leaf.keys), leaf.name, list(leaf.shape), leaf.key_impl]
            for leaf in point.layout
        ],
        "senders": [sender.to_json() for sender in point.senders],
        "ended": list(point.ended),
        "loaders": list(point.loaders),
    }
    store.put_blob(name, mark.key, [pack(meta, list(point.leaves))])


def get_checkpoint(store: Store, name: str, mark: Mark) -> Checkpoint:
    """The checkpoint that a mark names.

    Raises:
        FormatError: The blob is absent, damaged, or another one.
    """
    meta, arrays = get_blob(store, name, mark)
    try:
        layout = tuple(
            StateLeaf(keys_from_json(keys), leaf_name, tuple(shape), array.dtype, key_impl)
            for (keys, leaf_name, shape, key_impl), array in zip(
                meta["leaves"], arrays, strict=True
            )
        )
        return Checkpoint(
            step=meta["step"],
            draws=tuple(meta["draws"]),
            layout=layout,
            leaves=tuple(arrays),
            lanes=tuple(meta["lanes"]),
            senders=tuple(map(SenderState.from_json, meta["senders"])),
            ended=tuple(meta["ended"]),
            loaders=tuple(meta["loaders"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{mark.key} of {store.location} is no checkpoint: {error!r}. Restore it from a copy."
        ) from error
