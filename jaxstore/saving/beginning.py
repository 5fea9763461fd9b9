"""The beginning of a run: its manifest, its coordinates, and a first commit of nothing.

Owned here: what lies in a store before the first draw. A run that stopped is taken up by
`resumption`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from jaxstore.errors import ExistsError
from jaxstore.saving.block import HostArray
from jaxstore.saving.layout import Layout, manifest_of
from jaxstore.saving.options import Options
from jaxstore.saving.recorder import Recorder
from jaxstore.stores.base import ArraySpec, Json, Store
from jaxstore.stores.run_format import ITERATION, MANIFEST


def begin_run(
    store: Store,
    layout: Layout,
    options: Options,
    *,
    told: Mapping[str, Mapping[str, Json]],
    n_draws: int | None,
) -> Recorder:
    """Begin a run in a store that holds none, or one that a kill left before its first commit.

    Args:
        store: Open for writing.
        layout: Of the sample.
        options: Of the collector.
        told: `settings` and `identity`, for the manifest.
        n_draws: Of each chain, as far as is known before.
    """
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    store.set_attrs({MANIFEST: manifest_of(layout, created_at=created_at, **told)})
    write_coordinates(store, layout, options.coords)
    recorder = Recorder(store, layout, chunk_draws=options.chunk_draws, n_draws=n_draws)
    recorder.commit("running")
    return recorder


def check_free(store: Store, layout: Layout, *, place: str) -> None:
    """Refuse a store that holds something where the run would lie.

    Raises:
        ExistsError: It does.
    """
    taken = [name for name in store.names() if name.split("/")[0] in layout.groups]
    if store.attrs().get(MANIFEST) or taken:
        raise ExistsError(
            f"{place} already holds {taken or 'a run'}, and nothing there is overwritten. Save to "
            "another place or group, look at it with jaxstore.open_run, or go on with it: "
            "collector.resume(), scan(resume=True)."
        )


def write_coordinates(store: Store, layout: Layout, coords: Mapping[str, HostArray]) -> None:
    """Write the coordinates of dimensions beside the leaves that use them; labels but once.

    Groups say in `coordinates`, as the CF conventions have it, that `iteration` is one too.
    """
    there = set(store.names())
    for group in layout.groups:
        store.set_attrs({"coordinates": ITERATION}, group)
        inside = [leaf for leaf in layout.leaves if leaf.name.startswith(f"{group}/")]
        places = {(leaf.name.rpartition("/")[0], dim) for leaf in inside for dim in leaf.dims}
        for parent, dim in sorted(places):
            name = f"{parent}/{dim}"
            if dim not in coords or store.labels(name) is not None:
                continue
            values = np.asarray(coords[dim])
            if values.dtype.kind == "U":
                store.create_labels(name, values.tolist())
                continue
            if name not in there:  # else a kill came between making it and writing it
                store.create(ArraySpec(name, values.shape, values.shape, values.dtype, (dim,)))
            store.write(name, (0,), values)
            store.resize(name, values.shape)
