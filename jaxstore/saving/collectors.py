"""Collectors: where the draws of a running program go.

Owned here: the three collectors that come with jaxstore, and where each of them writes. What they
can do is `store_collector`'s, what a collector of your own must have `data_collector`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxstore.errors import ExistsError, MissingError
from jaxstore.saving.npz_file import NpzFile
from jaxstore.saving.options import Options, Place
from jaxstore.saving.recording import Recording
from jaxstore.saving.run import Run
from jaxstore.saving.store_collector import StoreCollector
from jaxstore.saving.writer import QUEUE_BYTES
from jaxstore.stores.base import Json, Store
from jaxstore.stores.icechunk_branch import branch_of
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.urls import redact


class MemoryCollector(StoreCollector):
    """Keeps draws in host memory, which is mostly larger than a device's.

    Args:
        save_dir: Existing directory or one to make; each finished chain is also written there, as
            `chain_{id}.npz` with an array per leaf. None writes nothing.
        group: As for `ZarrCollector`, and so are `dims`, `coords` and `settings`.
        queue_bytes: What may wait for the writer at most.

    Raises:
        ExistsError: The directory holds chains of an earlier run.
        ValueError: A size or name that makes no sense.

    >>> import jax, jax.numpy as jnp, jaxstore as js
    >>> init_save, save, postprocess_save = js.save(js.MemoryCollector())
    >>> state, _ = jax.lax.scan(lambda s, i: save(s, i % 2 == 0, {"i": i}),
    ...                         init_save({"i": jnp.array(0)}), jnp.arange(5))
    >>> postprocess_save(state)["samples"]
    {'i': array([0, 2, 4], dtype=int32)}
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str] | None = None,
        *,
        group: str | None = "samples",
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Any] | None = None,
        settings: Mapping[str, Json] | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        # Memory has no chunks to fill: every block goes straight to its place.
        chunk_draws = 1
        options = Options(group, dims or {}, coords or {}, settings or {}, chunk_draws, queue_bytes)
        store = MemoryStore()

        def create() -> Store:
            if store.names():
                raise ExistsError(
                    "this collector holds a run. Go on with it by resume(), or make a new one."
                )
            return store

        def reopen() -> Store:
            if not store.names():
                raise MissingError("nothing is in memory yet")
            return store

        place = Place("memory", create, reopen)
        if save_dir is None:
            super().__init__(partial(Recording, place, options))
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
                write_npz(run, chain, directory, prefix=f"{group}/" if group else "")

        super().__init__(partial(Recording, place, options, on_finish=write))


class ZarrCollector(StoreCollector):
    """Streams draws into a Zarr v3 store, which xarray and ArviZ open as it stands.

    Nothing is written before the first `init_save`, and nothing that is there is overwritten.

    Args:
        where: A path, a URL (`s3://bucket/run.zarr`), an obstore store, a zarr Store, or an
            `icechunk.Repository`, whose branch "main" then gets a snapshot with each commit; see
            `IcechunkBranch` for others.
        group: Holds the leaves; None takes the top level of the sample as groups, for example
            `{"posterior": ..., "sample_stats": ...}`.
        dims: Names of the axes of a leaf's draw, by leaf name: `{"beta": ["feature"]}`.
        coords: Values along such dimensions, numbers or strings: `{"feature": ["age", "bmi"]}`.
        settings: Anything JSON, kept with the run.
        compression: "zstd", "lz4" or None. With None chunks are written at the speed of files.
        checksum: Whether each chunk carries a checksum that reading verifies.
        chunk_draws: Draws per chunk; None gives chunks of about 4 MiB.
        queue_bytes: What may wait for the writer at most; a full queue holds the program up.
        durable: Whether commits survive a loss of power too, not only the death of the process.

    Raises:
        ValueError: A size or name that makes no sense.

    >>> import jax.numpy as jnp, tempfile, jaxstore as js
    >>> path = tempfile.mkdtemp() + "/run.zarr"
    >>> with js.ZarrCollector(path, dims={"x": ["site"]}, coords={"site": ["a", "b"]}) as collector:
    ...     _ = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=3, collector=collector)
    >>> js.open_run(path).to_datatree()["samples"]["x"].sel(site="b").values
    array([[0., 1., 2.]], dtype=float32)
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
        durable: bool = False,
    ) -> None:
        how: dict[str, Any] = {"compression": compression, "checksum": checksum, "durable": durable}

        def create() -> Store:
            from jaxstore.stores.zarr3 import ZarrStore

            return ZarrStore.new(where, **how)

        def reopen() -> Store:
            from jaxstore.stores.zarr3 import ZarrStore

            return ZarrStore.open(where, mode="r+", **how)

        options = Options(group, dims or {}, coords or {}, settings or {}, chunk_draws, queue_bytes)
        place = Place(place_of(where), create, reopen)
        super().__init__(partial(Recording, place, options))


class HDF5Collector(StoreCollector):
    """Streams draws into an HDF5 file, in the structure of the pytree; xarray opens it by h5netcdf.

    Args:
        file: A path, or an open `h5py.File` or `h5py.Group`, which stays open.
        group: As for `ZarrCollector`, and so are all other arguments.

    Raises:
        ValueError: A size or name that makes no sense.

    >>> import h5py, jax.numpy as jnp, tempfile, jaxstore as js
    >>> with h5py.File(tempfile.mkdtemp() + "/all.h5", "w") as file:
    ...     with js.HDF5Collector(file.create_group("first"), compression=None) as collector:
    ...         _ = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=3,
    ...                     collector=collector)
    ...     file["first/samples/x"][0, :, 1]
    array([0., 1., 2.], dtype=float32)
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
        durable: bool = False,
    ) -> None:
        how: dict[str, Any] = {"compression": compression, "checksum": checksum, "durable": durable}
        is_path = isinstance(file, str | os.PathLike)

        def create() -> Store:
            from jaxstore.stores.hdf5 import HDF5Store

            return HDF5Store.new(file, **how) if is_path else HDF5Store.adopt(file, **how)

        def reopen() -> Store:
            from jaxstore.stores.hdf5 import HDF5Store

            if not is_path:
                return HDF5Store.adopt(file, **how)
            return HDF5Store.open(file, mode="r+", **how)

        options = Options(group, dims or {}, coords or {}, settings or {}, chunk_draws, queue_bytes)
        place = Place(place_of(file), create, reopen)
        super().__init__(partial(Recording, place, options))


def place_of(where: Any) -> str:
    """A path, URL or handle for messages, without credentials."""
    if branch := branch_of(where):
        return str(branch)
    return redact(os.fspath(where)) if isinstance(where, str | os.PathLike) else repr(where)


def write_npz(run: Run, chain: int, directory: Path, *, prefix: str) -> None:
    """Write the draws of a chain as `chain_{chain}.npz`; typed keys as their key data.

    Args:
        run: That holds it.
        chain: Its number.
        directory: Gets the file.
        prefix: Of the names of leaves in the run, which the file does without.
    """
    n_draws = int(run.sample_count[chain])
    NpzFile(directory / f"chain_{chain}.npz").replace(
        {
            leaf.name.removeprefix(prefix): np.asarray(leaf.plain().of_chain(chain)[:n_draws])
            for leaf in run.leaves
        }
    )
