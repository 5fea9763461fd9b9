"""Items out of stored arrays, in any order, into memory that lies as the kernel takes it.

Owned here: which stored chunks a few items need, and that each of them is read once for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64

from jaxstore.processing.aligned import aligned_empty
from jaxstore.processing.selection import Items
from jaxstore.processing.units import Channels
from jaxstore.sources.fetch import Index, RowSource
from jaxstore.sources.geometry import ArrayGeometry

Array = np.ndarray[Any, Any]
Places = slice | Int64[np.ndarray, " places"]


def read_items(source: RowSource, items: Items) -> Array:
    """Items of an array, (len(items), *item shape), C-contiguous.

    Args:
        source: The array.
        items: Indices along its sample axis, in any order.

    Raises:
        FormatError: A chunk is damaged, or absent from a strict source.
        OSError: It cannot be read.
    """
    out = aligned_empty((len(items), *source.geometry.inner_shape), source.geometry.dtype)
    _read_into(out, source, items, None)
    return out


def read_channels(source: RowSource, items: Items, channels: Channels, block: int) -> Array:
    """Items of an array, of one block of channels; chunks of other channels are not read."""
    whole: Array = np.empty((len(items), *source.geometry.inner_shape), source.geometry.dtype)
    part = channels.within(block)
    _read_into(whole, source, items, (channels.axis, part))
    cut = whole[(slice(None), *[slice(None)] * channels.axis, part)]
    out = aligned_empty(cut.shape, cut.dtype)
    out[...] = cut
    return out


def _read_into(out: Array, source: RowSource, items: Items, part: tuple[int, slice] | None) -> None:
    geometry = source.geometry
    for chunk, places in _by_chunk(items, geometry.sample_chunk_size):
        held = geometry.samples_in_chunk(chunk)
        within = items[places] - held.start
        is_whole = len(within) == len(held) and bool((within == np.arange(len(held))).all())
        in_place = is_whole and isinstance(places, slice)
        rows = out[places] if in_place else np.empty((len(held), *out.shape[1:]), out.dtype)
        for index in source.stored_chunks(chunk):
            if part is None or _touches(geometry, index, *part):
                source.read(index, rows)
        if not in_place:
            out[places] = rows[within]


def _by_chunk(items: Items, chunk_rows: int) -> Iterator[tuple[int, Places]]:
    """Each chunk that items lie in, with the places of those items among them."""
    chunks = items // chunk_rows
    order = np.argsort(chunks, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
        first, last = int(places[0]), int(places[-1])
        together = last - first + 1 == len(places)
        yield int(chunks[first]), slice(first, last + 1) if together else places


def _touches(geometry: ArrayGeometry, index: Index, axis: int, part: slice) -> bool:
    """Whether a stored chunk holds any of a part of an axis of the items."""
    if len(index) != len(geometry.shape):
        return True  # not cut along the axes of an item
    stored_axis = axis + (axis >= geometry.axis)
    start = index[stored_axis] * geometry.chunks[stored_axis]
    return start < part.stop and part.start < start + geometry.chunks[stored_axis]
