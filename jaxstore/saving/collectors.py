"""Collectors: where the draws of a running program go.

Owned here: the interface that users implement, and the three collectors that come with jaxstore.
What these do is `recording`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import ExistsError
from jaxstore.saving.block import Block
from jaxstore.saving.npz_file import NpzFile
from jaxstore.saving.recording import Options, Recording
from jaxstore.saving.run import Run
from jaxstore.saving.session import Session, original_of
from jaxstore.saving.static import StaticInformation, declared_draws
from jaxstore.saving.writer import QUEUE_BYTES
from jaxstore.stores.base import Json, Store
from jaxstore.stores.location import redact
from jaxstore.stores.memory import MemoryStore


@runtime_checkable
class DataCollector(Protocol):
    """What a collector of your own must have; it gets one draw of one chain at a time.

    `save` and `register_chain` of further chains come from one thread that jaxstore starts, in
    the order of the draws of each chain. An exception stops the program and reaches the caller as
    itself. The interface is that of `jax_sgmc.io.DataCollector` (Thaler et al., 2024).
    """

    def register_chain(
        self,
        init_sample: PyTree = None,
        init_checkpoint: PyTree = None,
        static_information: StaticInformation | None = None,
    ) -> int:
        """Prepare for a new chain whose samples look like `init_sample`; returns its id."""
        ...

    def save(self, chain_id: int, values: list[np.ndarray[Any, Any]]) -> None:
        """Take one draw: the leaves of the sample in the order of `jax.tree.leaves`."""
        ...

    def finalize(self, chain_id: int) -> None:
        """All draws of this chain were given to `save`."""
        ...

    def finished(self, chain_id: int) -> Any:
        """Called last, by `postprocess_save`; returns what shall be its "samples"."""
        ...


class StoreCollector:
    """What the collectors that write a run have in common; use one of them.

    As a context manager it closes itself, and an error of the writer, or Ctrl-C, leaves the block
    as itself instead of as the `JaxRuntimeError` into which JAX turns what a callback raises.
    It is a `DataCollector` too, for whoever hands it single draws.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._fed: dict[int, Session] = {}  # by chain, for single draws

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if is_jax:
            original_of([self.recording])
        try:
            self.close()
        except BaseException as kept:
            if error is None or is_jax:
                raise kept from error
            # Else what leaves the block says more; `kept` is in `recording.error`.

    def __repr__(self) -> str:
        status = self.recording.status()
        state = "closed" if self.recording.is_closed else "open"
        return (
            f"<{type(self).__name__} {self.recording.place}: {state}, {status.n_chains} chains, "
            f"{status.draws:,} draws, {status.committed:,} committed>"
        )

    def flush(self) -> None:
        """Wait until every draw that arrived is with the store. Raises what stopped the writer."""
        self.recording.flush()

    def close(self) -> None:
        """Write and commit what arrived and let go of the store; again does nothing.

        Raises:
            BaseException: What stopped the writer, as itself.
        """
        self.recording.close()

    def register_chain(
        self,
        init_sample: PyTree = None,
        init_checkpoint: PyTree = None,
        static_information: StaticInformation | None = None,
    ) -> int:
        """Begin a chain to hand single draws to; returns its number."""
        session = self.recording.begin(init_sample, declared=declared_draws(static_information))
        chain = session.open_chains(1)
        self._fed[chain] = session
        return chain

    def save(self, chain_id: int, values: Sequence[Any]) -> None:
        """Take one draw of a registered chain: the leaves of the sample."""
        session = self._fed[chain_id]
        steps = np.full((1, 1), session.counts[chain_id], np.int64)
        leaves = tuple(np.asarray(value)[None, None] for value in values)
        session.put(Block(chain_id, steps, leaves, sender_chains=1))

    def finalize(self, chain_id: int) -> None:
        """Wait until the draws of a registered chain are with the store."""
        self.flush()

    def finished(self, chain_id: int) -> PyTree:
        """End a registered chain; returns its samples in the structure of `init_sample`."""
        return self.recording.finish([self._fed.pop(chain_id)], has_chain_axis=False)


class MemoryCollector(StoreCollector):
    """Keeps draws in host memory, which is mostly larger than a device's.

    Args:
        save_dir: Existing directory or one to make; each finished chain is also written there, as
            `chain_{id}.npz` with an array per leaf. None writes nothing.
        queue_bytes: What may wait for the writer at most.

    Raises:
        ExistsError: The directory holds chains of an earlier run.

    >>> import jax, jax.numpy as jnp, jaxstore as js
    >>> init_save, save, postprocess_save = js.save(js.MemoryCollector())
    >>> state, _ = jax.lax.scan(lambda s, i: save(s, i % 2 == 0, {"i": i}),
    ...                         init_save({"i": jnp.array(0)}), jnp.arange(5))
    >>> postprocess_save(state)["samples"]
    {'i': array([0, 2, 4], dtype=int32)}
    """

    def __init__(
        self, save_dir: str | os.PathLike[str] | None = None, *, queue_bytes: int = QUEUE_BYTES
    ) -> None:
        # Memory has no chunks to fill: every block goes straight to its place.
        options = Options(chunk_draws=1, queue_bytes=queue_bytes)
        if save_dir is None:
            super().__init__(Recording(MemoryStore, "memory", options))
            return

        directory = Path(save_dir)
        directory.mkdir(parents=True, exist_ok=True)
        taken = sorted(path.name for path in directory.glob("chain_*.npz"))
        if taken:
            raise ExistsError(
                f"{directory} holds {taken} of an earlier run, and nothing there is overwritten. "
                "Choose another directory, or remove them."
            )

        def write(run: Run, chains: tuple[int, ...]) -> None:
            for chain in chains:
                write_npz(run, chain, directory)

        super().__init__(Recording(MemoryStore, "memory", options, write))


class ZarrCollector(StoreCollector):
    """Streams draws into a Zarr v3 store, which xarray and ArviZ open as it stands.

    Nothing is written before the first `init_save`, and nothing that is there is overwritten.

    Args:
        where: A path, a URL (`s3://bucket/run.zarr`), an obstore store or a zarr Store.
        group: Holds the leaves; None takes the top level of the sample as groups, for example
            `{"posterior": ..., "sample_stats": ...}`.
        dims: Names of the axes of a leaf's draw, by leaf name: `{"beta": ["feature"]}`.
        coords: Values along such dimensions, numbers or strings: `{"feature": ["age", "bmi"]}`.
        settings: Anything JSON, kept with the run.
        compression: "zstd", "lz4" or None. With None chunks are written at the speed of files.
        checksum: Whether each chunk carries a checksum that reading verifies.
        chunk_draws: Draws per chunk; None gives chunks of about 4 MiB.
        queue_bytes: What may wait for the writer at most; a full queue holds the program up.

    Raises:
        ValueError: A size or name that makes no sense.
    """

    def __init__(
        self,
        where: Any,
        *,
        group: str | None = "samples",
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        settings: Mapping[str, Json] | None = None,
        compression: str | None = "zstd",
        checksum: bool = True,
        chunk_draws: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        def create() -> Store:
            from jaxstore.stores.zarr3 import ZarrStore

            return ZarrStore.new(where, compression=compression, checksum=checksum)

        options = Options(group, dims or {}, coords or {}, settings or {}, chunk_draws, queue_bytes)
        super().__init__(Recording(create, place_of(where), options))


class HDF5Collector(StoreCollector):
    """Streams draws into an HDF5 file, in the structure of the pytree; xarray opens it by h5netcdf.

    Args:
        file: A path, or an open `h5py.File` or `h5py.Group`, which stays open.
        group: As for `ZarrCollector`, and so are all other arguments.

    Raises:
        ValueError: A size or name that makes no sense.
    """

    def __init__(
        self,
        file: Any,
        *,
        group: str | None = "samples",
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        settings: Mapping[str, Json] | None = None,
        compression: str | None = "zstd",
        checksum: bool = True,
        chunk_draws: int | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        def create() -> Store:
            from jaxstore.stores.hdf5 import HDF5Store

            make = HDF5Store.new if isinstance(file, str | os.PathLike) else HDF5Store.adopt
            return make(file, compression=compression, checksum=checksum)

        options = Options(group, dims or {}, coords or {}, settings or {}, chunk_draws, queue_bytes)
        super().__init__(Recording(create, place_of(file), options))


def place_of(where: Any) -> str:
    """A path, URL or handle for messages, without credentials."""
    return redact(os.fspath(where)) if isinstance(where, str | os.PathLike) else repr(where)


def write_npz(run: Run, chain: int, directory: Path) -> None:
    """Write the draws of a chain as `chain_{chain}.npz`; typed keys as their key data."""
    n_draws = int(run.sample_count[chain])
    NpzFile(directory / f"chain_{chain}.npz").replace(
        {
            leaf.name.partition("/")[2]: np.asarray(leaf.plain().of_chain(chain)[:n_draws])
            for leaf in run.leaves
        }
    )
