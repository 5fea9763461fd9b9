"""A run at rest: what was sampled, how much of it counts, and how it opens elsewhere.

Owned here: reading. Only the commit record says how many draws there are; shapes and the presence
of chunks prove nothing after a crash.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Int64, PyTree

from jaxstore.errors import FormatError
from jaxstore.saving.layout import ITERATION, MANIFEST, layout_from_manifest
from jaxstore.saving.stored import StoredArray
from jaxstore.stores.base import Json, Store
from jaxstore.stores.location import open_store
from jaxstore.tree import nest


class Run:
    """One run at rest, as of its last commit when it was opened.

    Args:
        store: That holds it.
        treedef: Structure of a sample, where it is known; else `samples` is a nested dict.
    """

    def __init__(self, store: Store, *, treedef: Any = None) -> None:
        self._store = store
        self._treedef = treedef
        self._manifest: Json = store.attrs().get(MANIFEST)
        self._layout = layout_from_manifest(self._manifest, location=store.location)
        record = store.committed()
        if record is None:
            raise FormatError(f"{store.location} is a run without a commit record; it never began")
        self._record = record
        self._draws = tuple(record["draws"])

    @property
    def location(self) -> str:
        """Where it is: a path or URL, without credentials."""
        return self._store.location

    @property
    def state(self) -> str:
        """One of "running", "complete", and "interrupted": closed before its end."""
        return self._record["state"]

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        return len(self._draws)

    @property
    def sample_count(self) -> Int64[np.ndarray, " chain"]:
        """Committed draws of each chain."""
        return np.asarray(self._draws, np.int64)

    @property
    def settings(self) -> Mapping[str, Json]:
        """What the collector and the sampler were told."""
        return self._manifest["settings"]

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the packages that made it."""
        return self._manifest["versions"]

    @property
    def created_at(self) -> str:
        """When it began, ISO 8601 in UTC."""
        return self._manifest["created_at"]

    @property
    def committed_at(self) -> str:
        """When it last committed, ISO 8601 in UTC."""
        return self._record["committed_at"]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that hold the draws."""
        return self._layout.groups

    @property
    def leaves(self) -> tuple[StoredArray, ...]:
        """A handle per leaf, in the order of `jax.tree.leaves` of the sample."""
        chains = tuple(range(self.n_chains))
        return tuple(
            StoredArray(self._store, leaf, chains, self._draws) for leaf in self._layout.leaves
        )

    @property
    def samples(self) -> PyTree:
        """The draws: handles with shape (chain, draw, ...), arrays for a run in memory.

        In the structure of the sample in the process that made the run, else as nested dicts.
        """
        values = [leaf.resolve() for leaf in self.leaves]
        if self._treedef is not None:
            return jax.tree.unflatten(self._treedef, values)
        return nest(
            (leaf.keys, value) for leaf, value in zip(self._layout.leaves, values, strict=True)
        )

    @property
    def iteration(self) -> Int64[np.ndarray, "chain draw"]:
        """The step at which each draw was taken; 0 beyond the end of a chain."""
        longest = max(self._draws, default=0)
        region = (slice(0, self.n_chains), slice(0, longest))
        steps = self._store.read(f"{self.groups[0]}/{ITERATION}", region)
        return np.where(np.arange(longest) < self.sample_count[:, None], steps, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all draws, decoded."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def to_datatree(self) -> Any:
        """The run as an `xarray.DataTree`, lazily read, as ArviZ takes it.

        Needs xarray (`pip install 'jaxstore[analysis]'`).
        """
        from jaxstore.saving.datatree import datatree_of

        return datatree_of(self._store, self._layout, self.leaves)

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def describe(self) -> str:
        """What it is in words, a line per leaf."""
        low, high = min(self._draws, default=0), max(self._draws, default=0)
        draws = f"{high:,} draws" if low == high else f"{low:,} to {high:,} draws"
        chains = f"{self.n_chains} chain" + "s" * (self.n_chains != 1)
        lines = [f"run at {self.location}: {self.state}, {chains} of {draws}, {size(self.nbytes)}"]
        width = max((len(leaf.name) for leaf in self.leaves), default=0)
        lines += [f"  {leaf.name:{width}}  {leaf.shape}  {leaf.dtype}" for leaf in self.leaves]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def _repr_html_(self) -> str:
        first, *rest = self.describe().split("\n")
        rows = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in line.split("  ") if cell)
            + "</tr>"
            for line in rest
        )
        return f"<b>{html.escape(first)}</b><table>{rows}</table>"


def size(n_bytes: float) -> str:
    """Bytes for people.

    >>> size(10), size(2048), size(3 * 2**30)
    ('10 B', '2.0 KiB', '3.0 GiB')
    """
    if n_bytes < 1024:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        n_bytes /= 1024
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} TiB"


def open_run(where: Any) -> Run:
    """Open a run that was saved to Zarr or HDF5.

    Args:
        where: A path, a URL, an obstore store, a zarr Store or Group, an h5py File or Group.

    Raises:
        MissingError: Nothing is there.
        FormatError: What is there is not a run.

    >>> import jax.numpy as jnp, tempfile, jaxstore as js
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> _ = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=3,
    ...             collector=js.ZarrCollector(path))
    >>> run = js.open_run(path)
    >>> run.sample_count.tolist(), run.samples["x"][0, :, 1].tolist()
    ([3], [0.0, 1.0, 2.0])
    """
    return Run(open_store(where, mode="r"))
