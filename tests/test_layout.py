"""Where leaves go and how they are chunked; nothing is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxstore as js
from jaxstore.saving.layout import (
    MAX_CHUNK_BYTES,
    array_specs,
    chunking_of,
    layout_from_manifest,
    layout_of,
    manifest_of,
)


def of(sample, **options):
    return layout_of(sample, **({"group": "samples", "dims": {}} | options))


def test_leaves_groups_and_dimensions():
    sample = {"posterior": {"x": jnp.zeros((2, 3)), "k": jax.random.key(0)}, "stats": {"lp": 0.0}}
    layout = of(sample, group=None, dims={"posterior/x": ["row", "column"]})
    assert layout.groups == ("posterior", "stats")
    assert {leaf.name: leaf.dims for leaf in layout.leaves} == {
        "posterior/k": ("posterior.k_dim_0",),
        "posterior/x": ("row", "column"),
        "stats/lp": (),
    }
    assert {leaf.key_impl for leaf in layout.leaves} == {None, "threefry2x32"}


def test_a_leaf_outside_of_groups_is_refused():
    with pytest.raises(js.MismatchError, match="'lp'.*top level"):
        of({"lp": 0.0, "posterior": {"x": 0.0}}, group=None)


def test_the_manifest_gives_the_layout_back():
    sample = {"1": jnp.zeros(3, jnp.bfloat16), "ä/b": [jax.random.key(0), jnp.zeros(2, "int4")]}
    layout = of({"t": sample, "u": {1: 1j}})
    manifest = manifest_of(layout, settings={}, created_at="now")
    assert layout_from_manifest(manifest, location="here") == layout
    with pytest.raises(js.FormatError, match="newer|Update"):
        layout_from_manifest(manifest | {"format_version": 99}, location="here")
    with pytest.raises(js.FormatError, match="here is not a jaxstore run"):
        layout_from_manifest(None, location="here")


@given(
    shapes=st.lists(st.lists(st.integers(0, 3000), max_size=3).map(tuple), min_size=1, max_size=4),
    n_chains=st.integers(1, 2000),
    is_ragged=st.booleans(),
)
def test_chunks_are_bounded_and_commit_at_common_multiples(shapes, n_chains, is_ragged):
    sample = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    layout = of(sample)
    chunking = chunking_of(layout, n_chains=n_chains, is_ragged=is_ragged, chunk_draws=None)
    assert chunking.chains <= (1 if is_ragged else n_chains)
    assert all(chunking.commit_draws % draws == 0 for draws in chunking.draws)
    for spec in array_specs(layout, chunking):
        assert np.prod(spec.chunks, dtype=float) * spec.dtype.itemsize <= MAX_CHUNK_BYTES


def test_chains_of_big_draws_get_chunks_of_their_own():
    layout = of(jnp.zeros((1024, 1024), jnp.float32))
    assert chunking_of(layout, n_chains=8, is_ragged=False, chunk_draws=None).chains == 1
    layout = of(jnp.zeros(10, jnp.float32))
    assert chunking_of(layout, n_chains=64, is_ragged=False, chunk_draws=None).chains == 64
    assert chunking_of(layout, n_chains=64, is_ragged=False, chunk_draws=7).draws == (7,)


def test_draws_too_large_for_a_chunk_are_split():
    layout = of(jnp.zeros((64, 1024, 1024), jnp.float32))
    chunking = chunking_of(layout, n_chains=1, is_ragged=False, chunk_draws=None)
    assert array_specs(layout, chunking)[0].chunks == (1, 1, 4, 1024, 1024)
