"""From one format into another: runs, storages, results and plain arrays, in Zarr, HDF5 and npz.

Owned here: what a place holds, and the order in which it is copied: arrays first, then what makes
them count. How each kind is copied is told by the other `convert_*`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from jaxstore.errors import FormatError, MissingError
from jaxstore.face import convert_npz as npz
from jaxstore.face.convert_arrays import (
    Copy,
    check_no_result,
    copy_arrays,
    copy_groups,
    copy_labels,
    whole_of,
)
from jaxstore.face.convert_place import staged
from jaxstore.face.convert_results import bytes_of, copy_result
from jaxstore.face.convert_run import Plan, plan_run, plan_storage
from jaxstore.face.convert_tally import Tally
from jaxstore.face.result_facts import folders_of, nested_results
from jaxstore.sizes import size
from jaxstore.stores.base import Json, Store
from jaxstore.stores.location import create_store, open_store, takes_hdf5
from jaxstore.stores.results import ResultPlace
from jaxstore.stores.results_place import results_at
from jaxstore.stores.run_format import MANIFEST
from jaxstore.stores.urls import is_url, local_path, redact

Where = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted."""

    source: str
    target: str
    kind: str  # "run", "storage", "results" or "arrays"
    n_arrays: int
    n_bytes: int  # decoded
    seconds: float
    notes: tuple[str, ...]  # what is not in the target as it was in the source

    def to_json(self) -> Json:
        """This record as JSON."""
        return {
            "source": self.source,
            "target": self.target,
            "kind": self.kind,
            "arrays": self.n_arrays,
            "bytes": self.n_bytes,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        arrays = f"{self.n_arrays} array" + "s" * (self.n_arrays != 1)
        done = f"{self.kind} at {self.target}: {arrays}, {size(self.n_bytes)}"
        return "\n".join([f"{done} in {self.seconds:.1f} s", *self.notes])


@dataclass(frozen=True, slots=True)
class Settings:
    """How the target is written."""

    compression: str | None
    checksum: bool
    chunk_rows: int | None


def convert(
    source: Where,
    target: Where,
    *,
    compression: str | None = "zstd",
    checksum: bool = True,
    chunk_rows: int | None = None,
    progress: bool = True,
) -> Conversion:
    """Write what lies at a place to another one: bit for bit, in another format or other chunks.

    A run keeps its checkpoint, so a copy of a run that was killed is resumed as the run itself is.
    Of a run that is being written, the copy holds what is committed. Results keep their marks, and
    groups and arrays their attributes; groups that hold nothing are left out. However large the
    source, it takes about 100 MiB, or a few of its chunks; of an npz file, one array.

    Args:
        source: Path or URL of a run, a storage, a place of results, or a group of arrays, in Zarr
            or HDF5; or an npz file.
        target: Path or URL where nothing is yet. A path ending in .h5, .hdf5 or .he5 gets HDF5,
            one in .npz, for storages only, an npz file, any other Zarr.
        compression: "zstd", "lz4" or None.
        checksum: Whether each chunk carries a checksum.
        chunk_rows: Draws per chunk of a run, rows of plain arrays; None keeps chunks as they are.
            Storages and results keep theirs.
        progress: Whether a terminal shows how far it is.

    Raises:
        MissingError: Nothing is there.
        ExistsError: The target is there. Nothing was changed.
        FormatError: The source is damaged, or holds what the target cannot; no target is left.

    >>> import jax.numpy as jnp, tempfile, jaxstore as js
    >>> folder = tempfile.mkdtemp()
    >>> _ = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=3,
    ...             collector=js.ZarrCollector(f"{folder}/run.zarr"))
    >>> js.convert(f"{folder}/run.zarr", f"{folder}/run.h5").kind
    'run'
    >>> js.open_run(f"{folder}/run.h5").samples["x"][0, :, 1].tolist()
    [0.0, 1.0, 2.0]
    """
    began, tally = time.monotonic(), Tally(is_shown=progress)
    settings = Settings(compression, checksum, chunk_rows)
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows must be >= 1, got {chunk_rows}")
    place, wanted = plain_path(source), plain_path(target)
    if not is_url(place) and not Path(place).exists():
        raise MissingError(f"{place}: nothing is there. Correct the path.")
    try:
        with staged(wanted) as made:
            if npz.is_npz(place) and Path(place).is_file():
                kind = from_npz(Path(place), made, settings, tally)
            else:
                with closing(open_store(place)) as store:
                    kind = from_store(place, store, made, settings, tally)
    finally:
        tally.clear()
    seconds = time.monotonic() - began
    names = (redact(place), redact(wanted))
    return Conversion(*names, kind, tally.n_arrays, tally.n_bytes, seconds, tuple(tally.notes))


def plain_path(where: Where) -> str:
    """A path or URL as text; a file:// URL as its path."""
    text = os.fspath(where)
    return os.fspath(local_path(text) or text) if is_url(text) else text


def new_store(target: str, settings: Settings) -> Store:
    """The empty store to convert into.

    Raises:
        FormatError: An npz file is no place for that.
    """
    if npz.is_npz(target):
        raise FormatError(
            f"{Path(target).name}: of all that jaxstore converts, npz files can hold storages "
            "only. Name a target in Zarr or HDF5."
        )
    return create_store(target, compression=settings.compression, checksum=settings.checksum)


def from_npz(path: Path, target: str, settings: Settings, tally: Tally) -> str:
    """Copy an npz file; returns what it holds."""
    if not npz.is_storage(path):
        with closing(new_store(target, settings)) as store:
            for copy in npz.copies_of(path, chunk_rows=settings.chunk_rows):
                tally.total_bytes += copy.n_bytes
                copy_arrays(store, [copy], tally)
            store.seal()
        return "arrays"
    plan, manifest = npz.plan_storage(path, tally)
    write_storage(plan, manifest, target, settings, tally)
    return "storage"


def write_storage(
    plan: Plan, manifest: Json, target: str, settings: Settings, tally: Tally
) -> None:
    """Write a storage alone."""
    tally.total_bytes = sum(copy.n_bytes for copy in plan.copies)
    if npz.is_npz(target):
        npz.write_storage(Path(target), plan, manifest, tally)
        return
    with closing(new_store(target, settings)) as store:
        copy_arrays(store, plan.copies, tally)
        finish(store, plan, {MANIFEST: manifest})
        store.seal()


def from_store(place: str, source: Store, target: str, settings: Settings, tally: Tally) -> str:
    """Copy all that a store holds; returns what that is."""
    found = contents_of(place, source, settings, tally)
    if npz.is_npz(target) and found.kind == "storage":
        check_alone(found, location=source.location)
        write_storage(found.plan, found.attrs[MANIFEST], target, settings, tally)
        return found.kind
    tally.total_bytes = sum(copy.n_bytes for copy in found.copies)
    tally.total_bytes += sum(bytes_of(at, name) for _, at, name in found.results)
    with closing(new_store(target, settings)) as store:
        copy_groups(source, store, found.names)
        copy_labels(source, store, found.labels)
        copy_arrays(store, found.copies, tally)
        finish(store, found.plan, found.attrs)
        # What zarr would find at the root of a sealed store would tell of no results.
        if not (found.results and store.replaces_chunks):
            store.seal()
    for group, at, name in found.results:
        into = results_at(
            target, group=group, compression=settings.compression, checksum=settings.checksum
        )
        copy_result(at, into, name, tally)
    if found.results and not takes_hdf5(target):
        with closing(open_store(target, mode="r+")) as store:
            store.seal()
    return found.kind


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store holds."""

    kind: str
    attrs: Mapping[str, Json]  # of the root
    plan: Plan  # of the run or the storage, if there is one
    copies: tuple[Copy, ...]  # of all arrays but those of results
    labels: tuple[str, ...]
    results: tuple[tuple[str, ResultPlace, str], ...]  # group, also as a place, and name

    @property
    def names(self) -> list[str]:
        """Of all arrays and labels."""
        return [*(copy.spec.name for copy in self.copies), *self.labels]


def contents_of(place: str, source: Store, settings: Settings, tally: Tally) -> Contents:
    """What a store holds; nothing is copied.

    Raises:
        MissingError: Nothing that could be copied.
        FormatError: It is damaged.
    """
    attrs, location = source.attrs(), source.location
    check_no_result(attrs, "", location=location)
    manifest = attrs.get(MANIFEST, {})
    kind = manifest.get("kind") if isinstance(manifest, dict) else "damaged"
    plan = Plan((), None)
    if kind == "run":
        plan = plan_run(source, tally, chunk_rows=settings.chunk_rows)
    elif kind == "storage":
        plan = plan_storage(source, manifest, tally)
    elif MANIFEST in attrs:
        raise FormatError(f"{location}: its manifest is damaged. Restore it from a copy.")
    results = tuple(nested_results(place))
    inside = folders_of(results)
    names = [n for n in source.names(with_labels=True) if not n.startswith(inside)]
    if not (names or results or kind):
        raise MissingError(f"{location}: there is nothing to convert. Correct the path.")
    rest = [name for name in names if name not in plan.names]
    labels = tuple(name for name in rest if source.labels(name) is not None)
    rows = settings.chunk_rows if kind is None else None
    others = (
        whole_of(source, n, chunk_rows=rows, is_own=kind is not None)
        for n in rest
        if n not in labels
    )
    copies = (*plan.copies, *others)
    return Contents(
        kind or ("arrays" if names else "results"), attrs, plan, copies, labels, results
    )


def check_alone(found: Contents, *, location: str) -> None:
    """Refuse to leave out what lies beside a storage.

    Raises:
        FormatError: Something does.
    """
    names = {copy.spec.name for copy in found.copies} - found.plan.names
    more = sorted({*names, *found.labels, *(name for _, _, name in found.results), *found.attrs})
    more.remove(MANIFEST)
    if more:
        raise FormatError(
            f"{location} holds {', '.join(more)} beside the storage, which an npz file of a "
            "storage cannot. Name a target in Zarr or HDF5."
        )


def finish(store: Store, plan: Plan, attrs: Mapping[str, Json]) -> None:
    """Make what was copied count, as the very last."""
    if plan.checkpoint is not None:
        key, data = plan.checkpoint
        store.put_blob(plan.home, key, [data])
    if attrs:
        store.set_attrs(attrs)
    if plan.record is not None:
        store.commit(plan.record)
