"""How the draws of a run lie in a store: groups, names, dimensions, chunks, and the manifest.

Owned here: every decision about the layout, as data; `recorder` carries it out, `run` reads it
back. Leaf names come from `names`, formats from the stores.

    /                          attributes: `jaxstore`, the manifest below as JSON
    /<group>                   "samples", or what the user named; `posterior`, `sample_stats`, ...
    /<group>/<leaf name>       (chain, draw, *leaf.shape)
    /<group>/iteration         (chain, draw), the step at which each draw was taken
    /<group>/<dimension>       coordinates, where given
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import FormatError, MismatchError
from jaxstore.names import keys_to_json
from jaxstore.saving import untrusted
from jaxstore.saving.buffer import floor_power, is_key, raw_shapes
from jaxstore.stores.base import ArraySpec, Json
from jaxstore.stores.run_format import FORMAT_VERSION, ITERATION
from jaxstore.tree import Leaf, leaf_names

RESERVED = frozenset({"chain", "draw", ITERATION})
CHUNK_BYTES = 4 * 2**20  # aimed at; 1 to 16 MiB is where reads and writes both run at full speed
MAX_CHUNK_BYTES = 16 * 2**20
# Draws of all leaves up to which small leaves share a chunk; what a run holds in memory, and
# what a kill loses, before whole chunks are on disk.
COMMIT_BYTES = 64 * 2**20
MAX_DRAWS = 2**16  # the same for draws of next to no bytes
RAGGED_BYTES = 64 * 2**20  # the same for all chains together when each fills chunks of its own


@dataclass(frozen=True, slots=True)
class LeafLayout:
    """One leaf of the sample and the array that holds its draws."""

    keys: tuple[Any, ...]  # as in the user's pytree
    name: str  # of the array, group included: "samples/a/b"
    shape: tuple[int, ...]  # of one draw; key data for typed keys
    dtype: np.dtype[Any]
    dims: tuple[str, ...]  # of one draw
    key_impl: str | None  # name of the implementation, for typed PRNG keys

    @property
    def draw_bytes(self) -> int:
        """Bytes of one draw of one chain."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def to_json(self) -> Json:
        """This record for the manifest."""
        return {
            "keys": keys_to_json(self.keys),
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "dims": list(self.dims),
            "key_impl": self.key_impl,
        }

    @staticmethod
    def from_json(record: Mapping[str, Json]) -> LeafLayout:
        """A record out of a manifest.

        Raises:
            FormatError: It is none.
        """
        return LeafLayout(**untrusted.leaf_fields(record))


@dataclass(frozen=True, slots=True)
class Layout:
    """All leaves of a run, in the order of `jax.tree.leaves`, and the groups they are in."""

    leaves: tuple[LeafLayout, ...]
    groups: tuple[str, ...]

    @property
    def draw_bytes(self) -> int:
        """Bytes of one draw of one chain, over all leaves."""
        return sum(leaf.draw_bytes for leaf in self.leaves)


def home_of(layout: Layout) -> str:
    """Name of the array under which the blobs of a run lie."""
    return f"{layout.groups[0]}/{ITERATION}"


def layout_of(sample: PyTree, *, group: str | None, dims: Mapping[str, Sequence[str]]) -> Layout:
    """Where the leaves of a sample go.

    Args:
        sample: Arrays, shapes or typed keys.
        group: Holds all leaves; None takes the top level of the sample as the groups.
        dims: Names of the axes of a draw, by leaf name ("theta", "a/b").

    Raises:
        MismatchError: `dims` names a leaf that is not there, or not all of its axes.
    """
    named = leaf_names(sample, reserved=RESERVED)
    unknown = sorted(set(dims) - {leaf.name for leaf in named})
    if unknown:
        raise MismatchError(
            f"dims names {unknown}, the sample has {[leaf.name for leaf in named]}. "
            "Use the names of the leaves."
        )
    parts = [
        _leaf_layout(leaf, value, group=group, dims=dims)
        for leaf, value in zip(named, jax.tree.leaves(sample), strict=True)
    ]
    groups = (group,) if group else tuple(dict.fromkeys(p.name.split("/")[0] for p in parts))
    return Layout(tuple(parts), groups)


def _leaf_layout(
    leaf: Leaf, value: Any, *, group: str | None, dims: Mapping[str, Sequence[str]]
) -> LeafLayout:
    if group is None and "/" not in leaf.name:
        raise MismatchError(
            f"{leaf.name!r} lies at the top level of the sample, and group=None takes the top "
            "level as groups. Put it into a dict such as {'posterior': {...}}, or name a group."
        )
    shaped = raw_shapes(value)
    dotted = leaf.name.replace("/", ".")
    default = tuple(f"{dotted}_dim_{i}" for i in range(len(shaped.shape)))
    own = tuple(map(untrusted.parse_dim, dims.get(leaf.name, default)))
    if len(own) != len(default) or len(set(own)) != len(own) or RESERVED & set(own):
        raise MismatchError(
            f"dims of {leaf.name!r}: {own} for a draw of shape {shaped.shape}. Give one name per "
            "axis, all different, without chain and draw, which come first by themselves."
        )
    return LeafLayout(
        keys=leaf.keys,
        name=f"{group}/{leaf.name}" if group else leaf.name,
        shape=tuple(shaped.shape),
        dtype=np.dtype(shaped.dtype),
        dims=own,
        key_impl=key_impl_of(value) if is_key(value) else None,
    )


def key_impl_of(key: Any) -> str:
    """Name of a typed key's implementation, also where only its shape is known."""
    names: list[str] = []
    jax.eval_shape(lambda k: names.append(str(jax.random.key_impl(k))), key)
    return names[0]


@dataclass(frozen=True, slots=True)
class Chunking:
    """How many chains and draws share a chunk; equal for a leaf over the whole run."""

    chains: int
    draws: tuple[int, ...]  # per leaf
    commit_draws: int  # a multiple of all of them: after so many draws every leaf is whole


def chunking_of(
    layout: Layout,
    *,
    n_chains: int,
    is_ragged: bool,
    chunk_draws: int | None,
    n_draws: int | None = None,
) -> Chunking:
    """Chunks for chains that advance together, or each on its own (`is_ragged`).

    A run of known length has at least sixteen, so that it commits on its way, but none of less
    than sixteen draws for that.

    All numbers of draws are powers of two, as the rings are, so that flushes are whole chunks.
    """
    chains = 1 if is_ragged else n_chains
    budget = RAGGED_BYTES // n_chains if is_ragged else COMMIT_BYTES
    fitting = budget // max(1, chains * (layout.draw_bytes + 8))
    commit = floor_power(min(MAX_DRAWS, MAX_CHUNK_BYTES // (8 * chains), fitting))
    if n_draws is not None:
        commit = min(commit, floor_power(max(16, n_draws // 16)))
    # Big draws get a chunk of their own chain.
    biggest = max((leaf.draw_bytes for leaf in layout.leaves), default=1)
    per_chunk = max(1, min(chains, CHUNK_BYTES // max(1, biggest)))
    if chunk_draws is not None:
        return Chunking(per_chunk, (chunk_draws,) * len(layout.leaves), chunk_draws)
    draws = tuple(
        min(commit, floor_power(CHUNK_BYTES // max(1, per_chunk * leaf.draw_bytes)))
        for leaf in layout.leaves
    )
    return Chunking(per_chunk, draws, commit)


def array_specs(layout: Layout, chunking: Chunking) -> list[ArraySpec]:
    """The arrays of a run before its first draw: the leaves, then `iteration` of each group."""
    specs = [
        ArraySpec(
            leaf.name,
            (0, 0, *leaf.shape),
            (chunking.chains, draws, *_inner_chunks(leaf, chunking.chains * draws)),
            leaf.dtype,
            ("chain", "draw", *leaf.dims),
        )
        for leaf, draws in zip(layout.leaves, chunking.draws, strict=True)
    ]
    return specs + [
        ArraySpec(
            f"{group}/{ITERATION}",
            (0, 0),
            (chunking.chains, chunking.commit_draws),
            np.dtype(np.int64),
            ("chain", "draw"),
            {"long_name": "step of the sampler at which the draw was taken"},
        )
        for group in layout.groups
    ]


def _inner_chunks(leaf: LeafLayout, rows: int) -> tuple[int, ...]:
    """Chunks along the axes of a draw: whole, but for draws too large for one chunk."""
    inner = [max(1, n) for n in leaf.shape]
    for axis, n in enumerate(inner):
        row_bytes = rows * leaf.dtype.itemsize * int(np.prod(inner[axis + 1 :], dtype=np.int64))
        inner[axis] = max(1, min(n, MAX_CHUNK_BYTES // row_bytes))
        if inner[axis] > 1 or row_bytes <= MAX_CHUNK_BYTES:
            break
    return tuple(inner)


def check_coords(layout: Layout, coords: Mapping[str, Any], *, place: str) -> None:
    """Refuse coordinates that fit no axis.

    Raises:
        MismatchError: No leaf has such a dimension, or it has another length.
    """
    lengths: dict[str, set[int]] = {}
    for leaf in layout.leaves:
        for dim, n in zip(leaf.dims, leaf.shape, strict=True):
            lengths.setdefault(dim, set()).add(n)
    for dim, values in coords.items():
        shape = np.shape(values)
        if dim not in lengths:
            raise MismatchError(
                f"coords names the dimension {dim!r}; the leaves saved to {place} have "
                f"{sorted(lengths)}. Name the axis in dims."
            )
        if len(shape) != 1 or lengths[dim] != {shape[0]}:
            raise MismatchError(
                f"coords of {dim!r} have shape {shape}, the axis in the leaves saved to {place} "
                f"has length {sorted(lengths[dim])}. Give one value per element."
            )


def check_same_leaves(found: Layout, wanted: Layout, *, place: str) -> None:
    """Refuse a sample that a run was not made for, naming the leaf.

    Raises:
        MismatchError: A leaf is missing, new, or of another shape or dtype.
    """
    have = {leaf.name: leaf for leaf in wanted.leaves}
    for leaf in found.leaves:
        other = have.pop(leaf.name, None)
        if other is None:
            raise MismatchError(
                f"{leaf.name!r} is not in the run at {place}, which has "
                f"{[known.name for known in wanted.leaves]}. Save to a new place."
            )
        mine, theirs = (f"{x.dtype.name}{list(x.shape)}" for x in (leaf, other))
        if (mine, leaf.key_impl) != (theirs, other.key_impl):
            raise MismatchError(
                f"{leaf.name!r} in the run at {place} is {theirs} {other.key_impl or ''}, this "
                f"sample has {mine} {leaf.key_impl or ''}. Save to a new place, or cast it."
            )
    if have:
        raise MismatchError(
            f"{sorted(have)} of the run at {place} are missing in this sample. "
            "Save the same leaves, or save to a new place."
        )


def manifest_of(
    layout: Layout,
    *,
    settings: Mapping[str, Json],
    created_at: str,
    identity: Mapping[str, Json] | None = None,
) -> Json:
    """What a reader needs to know of a run, beside the arrays and the commit record.

    Args:
        layout: Of the sample.
        settings: What the collector and the sampler were told.
        created_at: ISO 8601, UTC.
        identity: What tells the program from another one that would make other draws.
    """
    return untrusted.sealed(
        {
            "kind": "run",
            "format_version": FORMAT_VERSION,
            "created_at": created_at,
            "settings": dict(settings),
            "identity": dict(identity or {}),
            "versions": versions(),
            "groups": list(layout.groups),
            "leaves": [leaf.to_json() for leaf in layout.leaves],
        }
    )


def layout_from_manifest(manifest: Json, *, location: str) -> Layout:
    """The layout of a stored run.

    Raises:
        FormatError: This is no run, damaged, or of a newer format.
    """
    found = untrusted.check_manifest(
        manifest, kind="run", version=FORMAT_VERSION, location=location
    )
    try:
        if not isinstance(found["settings"], dict):
            raise FormatError(f"settings are {untrusted.brief(found['settings'])}")
        groups = tuple(untrusted.parse_path(g) for g in untrusted.parse_list(found["groups"]))
        leaves = tuple(map(LeafLayout.from_json, untrusted.parse_list(found["leaves"])))
        names = [leaf.name for leaf in leaves] + [f"{group}/{ITERATION}" for group in groups]
        used = {name.partition("/")[0] for name in names}
        if not groups or len(set(names)) < len(names) or used != set(groups):
            raise FormatError("its groups are not those of its leaves")
    except (KeyError, FormatError) as error:
        reason = untrusted.brief(str(error))
        raise FormatError(untrusted.damaged(location, reason)) from error
    return Layout(leaves, groups)


def versions() -> dict[str, str]:
    """Versions of what took part in making a run."""
    found = {"python": platform.python_version()}
    for package in ("jaxstore", "jax", "jaxlib", "numpy", "zarr", "h5py"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
