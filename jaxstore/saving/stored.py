"""A lazy handle on the draws of one leaf.

Owned here: indexing that reads only what is asked for, and what a draw beyond a chain's end looks
like. Which draws count is told by `run`; the bytes come from a store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.saving.block import HostArray
from jaxstore.saving.layout import LeafLayout
from jaxstore.stores.base import Store
from jaxstore.stores.dtypes import fill_value, from_stored
from jaxstore.stores.indexing import split_index
from jaxstore.stores.limits import check_memory
from jaxstore.stores.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Draws of one leaf at rest, shape (chain, draw, ...); reads what you index, when you do.

    Chains that have fewer draws than the longest end in NaN (0 where the dtype has none).
    `numpy.asarray` reads all of it. Leaves of typed PRNG keys come as typed keys.
    """

    store: Store
    leaf: LeafLayout
    chains: tuple[int, ...]  # which of the run, in this order
    draws: tuple[int, ...]  # that each of them has
    has_chain_axis: bool = True

    @property
    def name(self) -> str:
        """Path of the array in its store."""
        return self.leaf.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(chain, draw, ...), without the first after `of_chain`."""
        inner = self.leaf.shape[:-1] if self.leaf.key_impl else self.leaf.shape
        chains = (len(self.chains),) if self.has_chain_axis else ()
        return (*chains, max(self.draws, default=0), *inner)

    @property
    def dtype(self) -> Any:
        """Of the elements; a JAX key dtype for typed keys."""
        if self.leaf.key_impl:
            return jax.random.key(0, impl=self.leaf.key_impl).dtype
        return self.leaf.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all draws, decoded."""
        return self.leaf.draw_bytes * max(self.draws, default=0) * len(self.chains)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<StoredArray {self.name} {self.shape} {self.dtype} in {self.store.location}>"

    def __array__(self, dtype: Any = None, copy: Any = None) -> HostArray:
        values = self[...]
        if self.leaf.key_impl:
            raise TypeError(f"{self.name} holds PRNG keys, which NumPy has no dtype for; index it")
        return np.asarray(values, dtype)

    def __getitem__(self, index: Any) -> Any:
        region, inside = split_index(index, self.shape)
        if not self.has_chain_axis:
            region = (slice(0, 1), *region)
        values = self._read(region)
        if not self.has_chain_axis:
            values = values[0]
        if self.leaf.key_impl:
            return jax.random.wrap_key_data(jnp.asarray(values), impl=self.leaf.key_impl)[inside]
        return values[inside]

    def of_chain(self, chain: int) -> StoredArray:
        """The draws of one chain, shape (draw, ...)."""
        return replace(self.of_chains((chain,)), has_chain_axis=False)

    def of_chains(self, chains: tuple[int, ...]) -> StoredArray:
        """The draws of some chains, in this order."""
        draws = dict(zip(self.chains, self.draws, strict=True))
        return replace(self, chains=chains, draws=tuple(draws[c] for c in chains))

    def plain(self) -> StoredArray:
        """The same with typed keys as their key data."""
        return replace(self, leaf=replace(self.leaf, key_impl=None))

    def resolve(self) -> Any:
        """This handle; for a run in memory the array itself, which costs nothing."""
        if not isinstance(self.store, MemoryStore):
            return self
        if self.leaf.key_impl or self.chains != tuple(range(len(self.chains))):
            return self[...]
        values = self.store.view(self.name)[: len(self.chains), : max(self.draws, default=0)]
        return values if self.has_chain_axis else values[0]

    def _read(self, region: tuple[slice, ...]) -> HostArray:
        """Read a region with a chain axis, fill what is beyond each chain's end."""
        rows, chains, draws = region[1], self.chains[region[0]], self.draws[region[0]]
        if rows.start == rows.stop or not chains:  # a run that has only begun has no arrays
            inner = self.leaf.shape[len(region) - 2 :]
            n_inner = tuple(cut.stop - cut.start for cut in region[2:])
            shape = (len(chains), rows.stop - rows.start, *n_inner, *inner)
            return np.empty(shape, self.leaf.dtype)
        shared = max(rows.start, min((rows.stop, *draws)))  # every chain has the rows before
        block = self._read_written(chains, (slice(rows.start, shared), *region[2:]))
        if shared == rows.stop:
            return block
        shape = (len(chains), rows.stop - rows.start, *block.shape[2:])
        check_memory(math.prod(shape) * block.itemsize, f"{self!r}: the region of {shape}")
        values = np.empty(shape, block.dtype)
        values[...] = from_stored(np.asarray(fill_value(self.leaf.dtype)), self.leaf.dtype)
        values[:, : shared - rows.start] = block
        for i, (chain, n_draws) in enumerate(zip(chains, draws, strict=True)):
            own = slice(shared, min(rows.stop, n_draws))
            if own.start < own.stop:
                found = self._read_written((chain,), (own, *region[2:]))
                values[i, own.start - rows.start : own.stop - rows.start] = found[0]
        return values

    def _read_written(self, chains: tuple[int, ...], inner: tuple[slice, ...]) -> HostArray:
        """Read rows that all of some chains have; what is absent of them was lost.

        Raises:
            FormatError: Rows are damaged or absent, or the array is not what the manifest says.
        """
        first = min(chains, default=0)
        if chains == tuple(range(first, first + len(chains))):
            region = (slice(first, first + len(chains)), *inner)
            values = self.store.read(self.name, region, is_strict=True)
        else:
            regions = [(slice(chain, chain + 1), *inner) for chain in chains]
            values = np.concatenate(
                [self.store.read(self.name, region, is_strict=True) for region in regions]
            )
        wanted = (len(chains), *(cut.stop - cut.start for cut in inner))
        # Typed keys have an axis of words behind those of the region.
        if values.shape[: len(wanted)] != wanted or values.dtype != self.leaf.dtype:
            raise FormatError(
                f"{self.name!r} in {self.store.location}: the run tells of {wanted} "
                f"{self.leaf.dtype}, the array has {values.shape} {values.dtype} of it. "
                "Restore it from a copy."
            )
        return values
