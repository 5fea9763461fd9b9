"""A try on a few items: what a process gives for them, of their chunks alone."""

import jax
import numpy as np
import pytest
from processed import QUIET, files, peak, waves, zarr_file

import jaxstore.sources.fetch_zarr as fetch_zarr
from jaxstore.processing.process import process
from jaxstore.processing.sample import sample


def assert_equal(tree, result, places):
    """The leaves of a sample are those items of a result, bit for bit."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    assert len(paths) == len(result.keys())
    for leaf, stored in zip(jax.tree.leaves(tree), jax.tree.leaves(result.outputs), strict=True):
        assert leaf.dtype == stored.dtype
        assert leaf.tobytes() == np.asarray(stored)[places].tobytes()


@pytest.mark.parametrize("items", [[3, 17], [17, 3, 3], slice(0, 20, 7), [-1]])
def test_values_are_those_of_the_process(tmp_path, items):
    source = zarr_file(tmp_path / "a.zarr", waves())
    whole = process(peak, source, "memory", params={"width": 2}, **QUIET)
    found = sample(peak, source, items, params={"width": 2})
    assert_equal(found, whole, items)
    assert type(found["at"]) is tuple


def test_items_of_a_selection_and_blocks_of_channels(tmp_path):
    def scaled(x):
        return np.float32(2) * x / (1 + x**2)

    settings = {"select": [5, 1, 9, 4], "chan_per_worker": 4, "channel_axis": 0}
    whole = process(scaled, waves(), "memory", **settings, **QUIET)
    found = sample(scaled, waves(), [2, 0], **settings)
    assert found.shape == (2, 6)
    assert found.tobytes() == whole["result"][:][[2, 0]].tobytes()


def test_only_their_chunks_are_read_and_nothing_is_written(tmp_path, monkeypatch):
    source = zarr_file(tmp_path / "a.zarr", waves())
    before, chunks = files(tmp_path), set()
    real = fetch_zarr.ZarrSource.read

    def read(self, index, rows):
        chunks.add(index)
        return real(self, index, rows)

    monkeypatch.setattr(fetch_zarr.ZarrSource, "read", read)
    sample(peak, source, [3, 17])
    assert chunks == {(0, 0), (4, 0)}
    assert files(tmp_path) == before


def test_with_a_reduction_the_outputs_before_it(tmp_path):
    whole = process(peak, waves(), "memory", **QUIET)
    assert_equal(sample(peak, waves(), [2], reduce="mean"), whole, [2])


def test_an_item_that_is_not_there():
    with pytest.raises(IndexError, match="has item 20, but the source has 20 items"):
        sample(peak, waves(), [20])
