"""A run written by hand, commit by commit, so that a test says what a reader finds when."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxstore.saving.layout import array_specs, chunking_of, layout_of, manifest_of
from jaxstore.saving.record import Record
from jaxstore.stores.dtypes import fill_value, from_stored
from jaxstore.stores.run_format import ITERATION, MANIFEST

SAMPLE = {"x": jnp.zeros(3, jnp.float32), "deep": {"n": jnp.int32(0), "key": jax.random.key(0)}}
CHUNK_DRAWS = 4


def layout():
    return layout_of(SAMPLE, group="samples", dims={"x": ["site"]})


def draws_of(leaf, chain, n):
    """The first draws of a chain: every number tells its place."""
    place = np.arange(n) + 1000 * chain
    values = np.repeat(place[:, None], int(np.prod(leaf.shape)) or 1, 1) * (1 + leaf.draw_bytes)
    return values.reshape(n, *leaf.shape).astype(leaf.dtype)


class HandWritten:
    """Writes draws as a sampler would; `counts` are those of each chain."""

    def __init__(self, store, n_chains=2, settings=None, group="samples"):
        self.store, self.layout, self.n_chains = store, layout(), n_chains
        manifest = manifest_of(
            self.layout, settings=settings or {}, created_at="2026-01-01T00:00:00+00:00"
        )
        store.set_attrs({MANIFEST: manifest})
        chunking = chunking_of(
            self.layout, n_chains=n_chains, is_ragged=True, chunk_draws=CHUNK_DRAWS
        )
        self.specs = array_specs(self.layout, chunking)
        for spec in self.specs:
            store.create(spec)
        self.commit(())

    def grow(self, *counts, state="running"):
        """Write and commit so many draws of each chain, the shorter ones cut back."""
        for spec, leaf in zip(self.specs, [*self.layout.leaves, None], strict=True):
            for chain, n in enumerate(counts):
                values = np.arange(n) * 3 if leaf is None else draws_of(leaf, chain, n)
                self.store.write(spec.name, (chain, *(0,) * (values.ndim)), values[None])
            self.store.resize(spec.name, (len(counts), max(counts), *spec.shape[2:]))
        self.commit(counts, state=state)

    def commit(self, counts, state="running"):
        self.store.commit(Record.now(tuple(counts), state, None, None).to_json())

    def samples(self, *counts):
        """What `run.samples` holds then, padded, with keys as their data."""
        found = {}
        for leaf in self.layout.leaves:
            fill = from_stored(np.asarray(fill_value(leaf.dtype)), leaf.dtype)
            values = np.full((len(counts), max(counts), *leaf.shape), fill, leaf.dtype)
            for chain, n in enumerate(counts):
                values[chain, :n] = draws_of(leaf, chain, n)
            found[leaf.name] = values
        return found


def steps_name():
    return f"samples/{ITERATION}"
