from __future__ import annotations

import h5py
import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_rows import CountingSource, numbered

from jaxstore.processing.reading import read_channels, read_items
from jaxstore.processing.units import Channels
from jaxstore.sources.opening import open_arrays

shapes = st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 5))


@st.composite
def stored(draw):
    """An array in Zarr or HDF5 in memory, its source along an axis, and items of it."""
    shape = draw(shapes)
    chunks = tuple(draw(st.integers(1, n)) for n in shape)
    axis = draw(st.integers(0, 2))
    values = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    items = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=12))
    array = zarr.create_array({}, shape=shape, chunks=chunks, dtype="i4")
    array[...] = values
    (source,) = open_arrays(array, axis=axis).values()
    return np.moveaxis(values, axis, 0), source, np.array(items)


@given(stored())
@settings(max_examples=60, deadline=None)
def test_items_are_those_of_the_array_in_any_order_and_chunking(case):
    values, source, items = case
    found = read_items(source, items)
    assert found.flags.c_contiguous
    assert found.dtype == values.dtype
    assert np.array_equal(found, values[items])


@given(stored(), st.data())
@settings(max_examples=60, deadline=None)
def test_channels_are_those_of_the_array(case, data):
    values, source, items = case
    axis = data.draw(st.integers(0, 1))
    n = values.shape[1 + axis]
    channels = Channels(axis, n, data.draw(st.integers(1, n)))
    parts = [read_channels(source, items, channels, b) for b in range(channels.n_blocks)]
    assert np.array_equal(np.concatenate(parts, 1 + axis), values[items])


def test_contiguous_hdf5_is_read_the_same(tmp_path):
    values = numbered(10)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["x"] = values
    (source,) = open_arrays(f"{tmp_path}/s.h5:/x").values()
    assert np.array_equal(read_items(source, np.array([7, 2, 2])), values[[7, 2, 2]])
    source.close()


@given(st.permutations(range(20)), st.integers(1, 20), st.integers(1, 20))
def test_each_chunk_is_read_once_for_all_its_items(order, n, chunk_rows):
    source = CountingSource("x", numbered(20), chunk_rows)
    items = np.array(order[:n])
    assert np.array_equal(read_items(source, items), source.values[items])
    assert sorted(source.chunks) == sorted({i // chunk_rows for i in order[:n]})


def test_chunks_of_other_channels_are_not_read(monkeypatch):
    array = zarr.create_array({}, shape=(4, 9), chunks=(2, 3), dtype="i4")
    array[...] = np.arange(36).reshape(4, 9)
    (source,) = open_arrays(array).values()
    seen, kind = [], type(source)
    read = kind.read
    monkeypatch.setattr(
        kind, "read", lambda s, index, rows: (seen.append(index), read(s, index, rows))[1]
    )
    read_channels(source, np.arange(4), Channels(0, 9, 2), 2)  # channels 4 and 5
    assert seen == [(0, 1), (1, 1)]
