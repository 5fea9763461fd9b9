"""Where the demo writes, and what there is its own.

Owned here: the stores and pictures by name, and the refusal to touch what somebody else made.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from jaxstore import find
from jaxstore.errors import ExistsError
from jaxstore.face.picture import refuse_foreign
from jaxstore.stores.location import open_store
from jaxstore.stores.run_format import MANIFEST

MADE_BY = "jaxstore demo"
ENTRIES = {  # all that the demo's stores have at their top; with anything else in it, one stays
    "run.zarr": ("zarr.json", "posterior", "sample_stats"),
    "predictive.zarr": ("zarr.json", "*-replicate_*", "*-interval_*", "*-share_explained_*"),
    "training.zarr": ("zarr.json", "samples"),
}


class Places(NamedTuple):
    """What the demo makes."""

    run: Path
    predictive: Path
    training: Path
    posterior_png: Path
    predictive_png: Path
    surrogate_png: Path


def places_in(directory: Path) -> Places:
    """The demo's places in a directory."""
    pictures = (directory / f"{name}.png" for name in ("posterior", "predictive", "surrogate"))
    return Places(*(directory / name for name in ENTRIES), *pictures)


def make_room(places: Places, *, is_fresh: bool) -> None:
    """Refuse what the demo did not make; remove what it made, if asked to.

    Raises:
        ExistsError: Something is there that stays; nothing was removed.
    """
    for picture in places[3:]:
        refuse_foreign(picture)
    stores = [path for path in places[:3] if path.exists() or path.is_symlink()]
    for path in stores:
        if not is_own(path):
            raise ExistsError(
                f"{path} is there and the demo did not make it, or something was added to it. It "
                "stays as it is. Choose another directory: jaxstore demo --dir DIRECTORY"
            )
    if is_fresh:
        for path in stores:
            shutil.rmtree(path)
        for picture in places[3:]:
            picture.unlink(missing_ok=True)


def is_own(path: Path) -> bool:
    """Whether a path is a store that a demo made, and nothing was added to it."""
    if path.is_symlink() or not path.is_dir():
        return False
    names = [entry.name for entry in path.iterdir()]
    if not all(any(fnmatch(name, known) for known in ENTRIES[path.name]) for name in names):
        return False
    return "zarr.json" not in names or makers_of(path) <= {MADE_BY}


def makers_of(path: Path) -> set[Any]:
    """Who made the run or the results in a store; nobody if it holds nothing yet."""
    if results := find(path):
        return {result.provenance["attrs"].get("made_by") for result in results}
    store = open_store(path)
    try:
        attrs, is_empty = store.attrs(), not store.names()
    finally:
        store.close()
    if not attrs and is_empty:  # killed when it had just begun
        return set()
    manifest = attrs.get(MANIFEST)
    return {manifest["settings"].get("made_by") if isinstance(manifest, dict) else None}
