"""A run as an xarray DataTree.

Owned here: xarray, for the saving wing. The layout itself opens with `xarray.open_datatree`
without jaxstore; this adds what no format tells: draws beyond the commit are cut, dtypes that
formats lack come back as themselves, and nested leaves lie flat in their group, as ArviZ wants it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from jaxstore.saving.layout import Layout
from jaxstore.saving.stored import StoredArray
from jaxstore.stores.base import Store
from jaxstore.stores.run_format import ITERATION


class LazyLeaf(BackendArray):
    """Lets xarray index a handle, reading when it needs the values."""

    def __init__(self, array: StoredArray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.array.__getitem__
        )


def datatree_of(store: Store, layout: Layout, arrays: Sequence[StoredArray]) -> Any:
    """A tree with a node per group, a variable per leaf ("a.b" if nested); keys as their data."""
    groups: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    n_chains, n_draws = len(arrays[0].chains), max(arrays[0].draws, default=0)
    for group in layout.groups:
        steps = store.read(f"{group}/{ITERATION}", (slice(0, n_chains), slice(0, n_draws)))
        groups[group] = ({}, {ITERATION: (("chain", "draw"), steps)})
    for array in arrays:
        leaf = array.leaf
        group, _, path = leaf.name.partition("/")
        variables, coords = groups[group]
        # xarray holds NumPy dtypes only, so typed keys are shown as their data.
        lazy = indexing.LazilyIndexedArray(LazyLeaf(array.plain()))
        variables[path.replace("/", ".")] = xr.Variable(("chain", "draw", *leaf.dims), lazy)
        for dim in leaf.dims:
            values = coordinate_of(store, f"{leaf.name.rpartition('/')[0]}/{dim}")
            if values is not None:
                coords[dim] = (dim, values)
    return xr.DataTree.from_dict({g: xr.Dataset(*parts) for g, parts in groups.items()})


def coordinate_of(store: Store, name: str) -> Any:
    """The values of a coordinate, None where none was given."""
    labels = store.labels(name)
    if labels is not None:
        return labels
    return store.read(name) if name in store.names() else None
