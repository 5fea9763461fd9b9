"""A run at rest: what was sampled, how much of it counts, and how it opens elsewhere.

Owned here: reading. Only the commit record says how many draws there are; shapes and the presence
of chunks prove nothing after a crash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Int64, PyTree

from jaxstore.card import card
from jaxstore.errors import FormatError, MissingError
from jaxstore.saving.layout import LeafLayout, home_of, layout_from_manifest
from jaxstore.saving.news import News
from jaxstore.saving.record import Record
from jaxstore.saving.stored import StoredArray
from jaxstore.saving.tail import with_tail
from jaxstore.sizes import size
from jaxstore.stores.base import Json, Store
from jaxstore.stores.location import open_store
from jaxstore.stores.report import Report
from jaxstore.stores.run_format import ITERATION, MANIFEST
from jaxstore.tree import nest

MOST_LOOKS = 5  # at a run that commits while it is opened


class Run:
    """One run at rest, as of its last commit when it was opened.

    Args:
        store: That holds it.
        treedef: Structure of a sample, where it is known; else `samples` is a nested dict.
    """

    def __init__(self, store: Store, *, treedef: Any = None) -> None:
        self._base = store
        self._treedef = treedef
        self._manifest: Json = store.attrs().get(MANIFEST)
        self._layout = layout_from_manifest(self._manifest, location=store.location)
        self._record = Record.from_json(store.committed(), location=store.location)
        self._store = with_tail(store, home_of(self._layout), self._record.tail)
        self._draws = self._record.draws

    @property
    def location(self) -> str:
        """Where it is: a path or URL, without credentials."""
        return self._store.location

    @property
    def state(self) -> str:
        """One of "running", "complete", and "interrupted": closed before its end."""
        return self._record.state

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
    def nonce(self) -> str:
        """New with each commit."""
        return self._record.nonce

    @property
    def created_at(self) -> str:
        """When it began, ISO 8601 in UTC."""
        return self._manifest["created_at"]

    @property
    def committed_at(self) -> str:
        """When it last committed, ISO 8601 in UTC."""
        return self._record.committed_at

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
        return self.unflatten([leaf.resolve() for leaf in self.leaves])

    def unflatten(self, values: Sequence[Any]) -> PyTree:
        """Values, one per leaf, in the structure of `samples`."""
        if self._treedef is not None:
            return jax.tree.unflatten(self._treedef, values)
        return nest(
            (leaf.keys, value) for leaf, value in zip(self._layout.leaves, values, strict=True)
        )

    @property
    def steps(self) -> StoredArray:
        """A handle on the step at which each draw was taken, shape (chain, draw)."""
        name = f"{self.groups[0]}/{ITERATION}"
        leaf = LeafLayout((ITERATION,), name, (), np.dtype(np.int64), (), None)
        return StoredArray(self._store, leaf, tuple(range(self.n_chains)), self._draws)

    @property
    def iteration(self) -> Int64[np.ndarray, "chain draw"]:
        """The step at which each draw was taken; 0 beyond the end of a chain."""
        return np.asarray(self.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of all draws, decoded."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def refresh(self) -> Run:
        """The same run as of its latest commit; this one stays as it is.

        Both read from one store, so closing one closes the other.

        Raises:
            MissingError: It is there no more.
            BusyError: Another process holds the store just now.
        """
        return run_in(self._base, treedef=self._treedef)

    def follow(
        self, poll_s: float = 0.5, timeout_s: float | None = None, *, from_start: bool = True
    ) -> Iterator[News]:
        """What is committed, then what newly commits, until the run ends; disturbs no writer.

        All news together, joined along axis 1, are `samples` of the finished run, bit for bit.
        While it goes on they reach up to the shortest chain; the rest follows when it has ended.
        Of a run that is killed, cut back to its checkpoint and resumed, no draw comes twice. Each
        news has at most 64 MiB, or one draw. Chains that begin later, by another `init_save`, come
        as news of their own.

        Args:
            poll_s: Seconds between two looks at the commit record.
            timeout_s: Without news for so long, it stops; None waits as long as the run is
                "running", for ever if that was killed.
            from_start: Whether to begin with the first draw, else with the next one to commit.

        Raises:
            MissingError: The run is gone.
            BusyError: Another process holds the store, for all of `timeout_s` or a minute.
            FormatError: What it reads is damaged.

        >>> import jax.numpy as jnp, jaxstore as js
        >>> _, run = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=5)
        >>> for news in run.follow():
        ...     print(news, news.samples["x"][0, -1])
        <News draws 0 to 5 of 1 chain, complete> [4. 4.]
        """
        from jaxstore.saving.follow import follow

        return follow(self, poll_s=poll_s, timeout_s=timeout_s, from_start=from_start)

    def verify(self) -> Report:
        """Read every committed chunk and tell what is damaged; see `jaxstore.verify`."""
        from jaxstore.saving.verify import verify

        return verify(self._base)

    def to_datatree(self) -> Any:
        """The run as an `xarray.DataTree`, lazily read, as ArviZ takes it.

        Needs xarray (`pip install 'jaxstore[analysis]'`).
        """
        from jaxstore.saving.datatree import datatree_of

        return datatree_of(self._store, self._layout, self.leaves)

    def close(self) -> None:
        """Let go of the store."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
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
        title, *_ = self.describe().split("\n")
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        facts = {"settings": settings, "groups": ", ".join(self.groups)}
        return card(title, facts, [(leaf.name, leaf.shape, leaf.dtype) for leaf in self.leaves])


def open_run(where: Any) -> Run:
    """Open a run that was saved to Zarr or HDF5.

    Args:
        where: A path, a URL, an obstore store, a zarr Store or Group, an h5py File or Group, an
            Icechunk repository or `IcechunkBranch`. The store of an Icechunk session is the run
            as of that snapshot.

    Raises:
        MissingError: Nothing is there, or a run that has not committed yet.
        FormatError: What is there is not a run.

    >>> import jax.numpy as jnp, tempfile, jaxstore as js
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> _ = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=3,
    ...             collector=js.ZarrCollector(path))
    >>> run = js.open_run(path)
    >>> run.sample_count.tolist(), run.samples["x"][0, :, 1].tolist()
    ([3], [0.0, 1.0, 2.0])
    """
    return run_in(open_store(where, mode="r"))


def run_in(store: Store, *, treedef: Any = None) -> Run:
    """The run in a store as of one commit, see `Run`."""
    for _ in range(MOST_LOOKS):
        before = store.committed()
        try:
            if before is None:
                check_begun(store)
            return Run(store, treedef=treedef)
        except (FormatError, MissingError):
            # The tail that a record names may be replaced while it is read, by a later commit.
            if store.committed() == before:
                raise
    return Run(store, treedef=treedef)


def check_begun(store: Store) -> None:
    """Refuse a store without a commit that is as a run leaves it before its first one.

    Raises:
        MissingError: A run is about to begin there, or was killed when it was.
        FormatError: It has another manifest than a run's.
    """
    names = set(store.names())  # before the manifest, which comes before all of them
    manifest = store.attrs().get(MANIFEST)
    if manifest is not None:
        layout = layout_from_manifest(manifest, location=store.location)
        names &= {leaf.name for leaf in layout.leaves}
    if not names:
        raise MissingError(
            f"{store.location} holds no run yet: nothing was committed. If its writer has just "
            "begun, open it again in a moment; if that was killed, run it again with resume=True."
        )
