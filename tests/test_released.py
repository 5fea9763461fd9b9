"""What nobody holds any more gives its memory back at once, not when the collector comes by."""

import gc
import weakref

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js
from jaxstore.loading.blocks import Blocks
from jaxstore.stores.memory import MemoryStore


@pytest.fixture
def made(monkeypatch):
    """Weak references to the memory stores and blocks that a test makes; no garbage collection."""
    found = []

    def watch(kind):
        init = kind.__init__

        def watched(self, *args, **how):
            init(self, *args, **how)
            found.append(weakref.ref(self))

        monkeypatch.setattr(kind, "__init__", watched)

    watch(MemoryStore)
    watch(Blocks)
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


def by_scan(collector):
    return js.scan(lambda x, _: (x + 1, x), jnp.zeros(9), length=100, collector=collector)


def by_triple(collector):
    init_save, save, postprocess_save = js.save(collector)
    state, _ = jax.lax.scan(lambda s, i: save(s, True, i), init_save(0), jnp.arange(100))
    return postprocess_save(state)


@pytest.mark.parametrize("sample", [by_scan, by_triple])
@pytest.mark.parametrize("is_closed", [False, True])
def test_a_run_in_memory(sample, is_closed, made):
    collector = js.MemoryCollector()
    result = sample(collector)
    if is_closed:
        collector.close()
    assert made[0]() is not None
    del collector, result
    assert [ref() for ref in made] == [None]


@pytest.mark.parametrize("n_batches", [1, 99])
def test_a_loader_that_nobody_closed(n_batches, tmp_path, made):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(300, dtype="f4"), chunks=(30,))
    loader = js.Loader(tmp_path / "a.h5", batch_size=16)
    for batch, _ in zip(loader, range(n_batches), strict=False):
        del batch
    assert made[0]() is not None
    del loader
    assert [ref() for ref in made] == [None]


def test_a_feed_needs_no_other_hold_on_its_loader(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(300, dtype="f4"), chunks=(30,))
    init_batch, next_batch, release = js.feed(js.Loader(tmp_path / "a.h5", batch_size=16))
    gc.collect()
    state, seen = init_batch(), []
    for _ in range(19):
        state, batch = next_batch(state)
        seen += np.asarray(batch["x"])[np.asarray(batch.mask)].tolist()
    assert sorted(seen) == list(range(300))
    release()
