"""What lies at a path, as facts for machines and as text for people.

Owned here: `jaxstore info`. What a run or a storage is, is told by `saving`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxstore.errors import FormatError, JaxstoreError, MissingError
from jaxstore.face.array_facts import facts_of_arrays, facts_of_foreign, facts_of_npz_arrays, row_of
from jaxstore.face.convert_npz import is_storage
from jaxstore.face.result_facts import (
    facts_of_results,
    folders_of,
    heading_of,
    nested_results,
    result_at,
    results_of,
)
from jaxstore.processing.result import Result
from jaxstore.saving.record import Record
from jaxstore.saving.run import Run, check_begun, run_in
from jaxstore.saving.snapshot_stream import parse_record
from jaxstore.saving.storage_reader import open_storage
from jaxstore.sizes import size
from jaxstore.stores.base import Json, Store
from jaxstore.stores.location import HDF5_SUFFIXES, open_store
from jaxstore.stores.run_format import MANIFEST
from jaxstore.stores.urls import is_url, local_path


def facts_of(where: str) -> Json:
    """All that is known of what lies at a path or URL; JSON.

    A run, a storage, results, plain arrays, or a folder that holds several of these.

    Raises:
        MissingError: Nothing is there.
        FormatError: It is none of these.
    """
    path = local_path(where) if is_url(where) else Path(where)
    if path is not None and path.is_file() and path.suffix == ".npz":
        facts = facts_of_npz(path)
    elif results := results_of(where):
        facts = facts_of_place(where, results)
    elif path is not None and not path.exists():
        raise MissingError(f"{where}: nothing is there. Correct the path.")
    elif path is not None and (inside := places_in(path)):
        return facts_of_folder(where, inside)
    else:
        facts = facts_of_place(where, [])
    return {**facts, "disk_bytes": disk_bytes(path) if path and path.exists() else None}


def facts_of_place(where: str, results: list[Result]) -> Json:
    """Facts of a store, and of the results in it."""
    found = facts_of_results(where, results) if results else {}
    if results and result_at(where) is not None:
        return found
    try:
        store = open_store(where)
    except MissingError:  # a group inside of HDF5
        if not found:
            raise
        return found
    except FormatError as error:
        return found or facts_of_foreign(where, error)
    with closing(store):
        inside = folders_of(nested_results(where)) if results else ()
        own: Json = facts_of_store(where, store, inside=inside)
    kind = {} if own["kind"] in ("run", "storage") else {"kind": "results"}
    return own | ({"results": found["results"]} | kind if found else {})


def facts_of_store(where: str, store: Store, *, inside: tuple[str, ...] = ()) -> Json:
    """Facts of what a store holds apart from results, whose arrays begin like `inside`."""
    manifest = store.attrs().get(MANIFEST)
    manifest = manifest if isinstance(manifest, dict) else {}
    if manifest.get("kind") == "run":
        return facts_of_run(store)
    if manifest.get("kind") == "storage":
        return facts_of_storage(where, store, manifest)
    if facts := facts_of_arrays(store, inside=inside):
        return facts
    if inside:
        return {"kind": "results", "location": where}
    if not manifest:
        check_begun(store)
    raise FormatError(
        f"{store.location} is neither a jaxstore run nor a storage, and holds no results and no "
        "arrays. Give the path of a run, or of a group with arrays."
    )


def places_in(folder: Path) -> list[Path]:
    """What a folder that is no store itself holds, as far as its names tell."""
    if not folder.is_dir() or (folder / "zarr.json").exists():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if (path / "zarr.json").is_file()
        or (path.is_file() and path.suffix.lower() in (*HDF5_SUFFIXES, ".npz"))
    )


def facts_of_folder(where: str, places: list[Path]) -> Json:
    """Facts of all that lies in a folder; of what cannot be read, why."""
    contents: list[Json] = []
    for path in places:
        try:
            contents.append(facts_of(str(path)))
        except (JaxstoreError, OSError) as error:
            contents.append({"kind": "unreadable", "location": str(path), "error": str(error)})
    return {"kind": "folder", "location": where, "contents": contents}


def facts_of_run(store: Store) -> Json:
    """Facts of a run; "damage" lists what cannot be read."""
    try:
        run = run_in(store)
    except FormatError as error:
        return facts_of_remains(store, error)
    arrays = [array_facts(store, leaf.name, leaf.shape, leaf.dtype) for leaf in run.leaves]
    damage = [f"{array['name']}: {array['damage']}" for array in arrays if "damage" in array]
    step = None
    try:
        step = last_step(run)
    except FormatError as error:
        damage.append(str(error))
    return {
        "kind": "run",
        "location": run.location,
        "state": run.state,
        "chains": run.n_chains,
        "draws": run.sample_count.tolist(),
        "last_step": step,
        "decoded_bytes": run.nbytes,
        "created_at": run.created_at,
        "committed_at": run.committed_at,
        "settings": dict(run.settings),
        "versions": dict(run.versions),
        "groups": list(run.groups),
        "arrays": arrays,
        **({"damage": damage} if damage else {}),
    }


def facts_of_remains(store: Store, error: FormatError) -> Json:
    """What can be told of a run whose manifest or commit record is damaged."""
    damage = [str(error)]
    facts: dict[str, Json] = {"kind": "run", "location": store.location, "state": "damaged"}
    with suppress(FormatError):  # which `error` tells already, if it is that one
        record = Record.from_json(store.committed(), location=store.location)
        draws = list(record.draws)
        facts |= {"state": f"damaged, last seen {record.state}", "chains": len(draws)}
        facts |= {"draws": draws, "committed_at": record.committed_at, "last_step": None}
    try:
        arrays = [
            array_facts(store, name, spec.shape, spec.dtype)
            for name, spec in ((name, store.spec(name)) for name in store.names())
        ]
        facts["arrays"] = arrays
    except FormatError as second:
        damage.append(str(second))
    return {**facts, "damage": damage}


def facts_of_storage(where: str, store: Store, manifest: Mapping[str, Json]) -> Json:
    """Facts of a `ZarrStorage` or `HDF5Storage`."""
    with open_storage(where) as stored:
        # On disk the snapshot axis comes first.
        shapes = {"time": stored.time.shape, "data": (len(stored.time), *stored.data.shape[:-1])}
        dtypes = {"time": stored.time.dtype, "data": stored.data.dtype}
        names = [name for name in store.names() if name in shapes]
        return {
            **snapshot_facts(store.location, stored.time, stored.data),
            "state": "complete" if stored.is_complete else "running or killed",
            "created_at": manifest["created_at"],
            "committed_at": parse_record(store.committed(), location=store.location).committed_at,
            "settings": {key: manifest[key] for key in ("stride", "chunk_size")},
            "versions": dict(manifest["versions"]),
            "arrays": [array_facts(store, name, shapes[name], dtypes[name]) for name in names],
        }


def facts_of_npz(path: Path) -> Json:
    """Facts of an npz file: of a `NumpyStorage`, or of plain arrays."""
    if not is_storage(path):
        return facts_of_npz_arrays(path)
    with open_storage(path) as stored:
        return {**snapshot_facts(str(path), stored.time, stored.data), "state": "complete"}


def snapshot_facts(location: str, time: Any, data: Any) -> Json:
    """Facts that all storages have."""
    n = len(time)
    return {
        "kind": "storage",
        "location": location,
        "snapshots": n,
        "time": [float(time[0]), float(time[-1])] if n else None,
        "decoded_bytes": (int(np.prod(data.shape)) * np.dtype(data.dtype).itemsize + 8 * n),
    }


def array_facts(store: Store, name: str, shape: tuple[int, ...], dtype: Any) -> Json:
    """Facts of one array, with the shape that counts; "damage" where it cannot be told how."""
    try:
        spec = store.spec(name)
    except (FormatError, MissingError) as error:
        return {**row_of(name, shape, str(dtype)), "damage": str(error)}
    return row_of(name, shape, str(dtype), dims=spec.dims, chunks=spec.chunks)


def last_step(run: Run) -> int | None:
    """The step of the sampler at which the last committed draw was taken; None without draws."""
    steps = [int(run.steps[c, n - 1]) for c, n in enumerate(run.sample_count.tolist()) if n]
    return max(steps, default=None)


def disk_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a directory; those that vanish meanwhile are 0."""
    total = 0
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def text_of(facts: Json) -> str:
    """The facts for people."""
    return "\n".join(lines_of(facts))


def lines_of(facts: Json) -> Iterator[str]:
    """A line per fact, then a table of the arrays, then what is damaged, then results."""
    if facts["kind"] == "folder":
        yield f"folder {facts['location']}"
        yield from map(line_of, facts["contents"])
        return
    if facts["kind"] != "results":
        yield f"{facts['kind']} at {facts['location']}"
    elif facts.get("arrays"):
        yield f"arrays and results at {facts['location']}"
    rows = {
        "state": how_far(facts),
        "size": how_big(facts),
        "time": facts.get("time") and "{:g} to {:g}".format(*facts["time"]),
        "began": facts.get("created_at"),
        "committed": facts.get("committed_at"),
        "settings": "\n".join(pairs(facts.get("settings", {}))),
        "versions": ", ".join(pairs(facts.get("versions", {}))),
    }
    for name, value in rows.items() if facts["kind"] != "results" else ():
        for i, line in enumerate(str(value or "").splitlines()):
            yield f"  {name if i == 0 else '':10} {line}"
    yield from table_of(facts.get("arrays", []))
    for what in facts.get("damage", []):
        yield f"  damaged    {what}"
    if facts.get("damage"):
        yield f"See what else is damaged with: jaxstore verify {facts['location']}"
    for result in facts.get("results", []):
        yield from heading_of(result)
        yield from table_of(result["arrays"])


def line_of(facts: Json) -> str:
    """Facts of one thing in a folder, as one line."""
    name = Path(facts["location"]).name
    if facts["kind"] == "unreadable":
        return f"  {name}  {facts['error']}"
    parts = [facts["kind"], how_far(facts)] if facts["kind"] in ("run", "storage") else []
    if n_arrays := 0 if parts else len(facts.get("arrays", [])):
        parts += ["1 array" if n_arrays == 1 else f"{n_arrays} arrays"]
    if n_results := len(facts.get("results", [])):
        parts += ["1 result" if n_results == 1 else f"{n_results} results"]
    return f"  {name}  " + ", ".join([part for part in (*parts, how_big(facts)) if part])


def how_big(facts: Json) -> str:
    """Bytes decoded and on disk, as far as they are known."""
    decoded, disk = facts.get("decoded_bytes"), facts.get("disk_bytes")
    parts = [] if decoded is None else [f"{size(decoded)} decoded"]
    return ", ".join([*parts, *([] if disk is None else [f"{size(disk)} on disk"])])


def how_far(facts: Json) -> str:
    """State and counts in words."""
    if facts["kind"] == "storage":
        return f"{facts['state']}, {facts['snapshots']:,} snapshots"
    if "draws" not in facts:
        return str(facts.get("state", ""))
    low, high = min(facts["draws"], default=0), max(facts["draws"], default=0)
    draws = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    chains = "1 chain" if facts["chains"] == 1 else f"{facts['chains']} chains"
    length, step = facts.get("settings", {}).get("length"), facts["last_step"]
    reached = ""
    if facts["state"] != "complete" and isinstance(length, int) and step is not None:
        reached = f", up to step {step + 1:,} of {length:,}"
    return f"{facts['state']}, {chains} of {draws} draws{reached}"


def pairs(record: Mapping[str, Json]) -> list[str]:
    """The entries of a record as words."""
    return [f"{key} {value}" for key, value in record.items()]


def table_of(arrays: list[Json]) -> Iterator[str]:
    """Arrays, a line each, in columns."""
    heads = ("array", "shape", "dtype", "chunks", "dimensions")
    cells = [
        (
            a["name"],
            times(a["shape"]),
            a["dtype"],
            "damaged" if "damage" in a else times(a["chunks"]),
            ", ".join(a["dims"]),
        )
        for a in arrays
    ]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for row in [heads, *cells] if cells else []:
        yield "  " + "  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip()


def times(shape: list[int]) -> str:
    """A shape as it is spoken.

    >>> times([4, 1000, 10])
    '4 x 1000 x 10'
    """
    return " x ".join(map(str, shape)) or "scalar"
