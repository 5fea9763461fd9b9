"""Loading onto a GPU; without one these tests skip."""

import jax
import numpy as np
import pytest
from stored_rows import numbered

import jaxstore as js

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU"),
]
SOURCE = {"x": numbered(2000, (16, 16)), "y": numbered(2000, ())}
ORDER = {"batch_size": 100, "window_chunks": 2}


@pytest.mark.parametrize("shuffle_on", ["host", "device"])
def test_every_batch_is_on_the_gpu_and_stays_as_it_is(shuffle_on):
    host = js.Loader(SOURCE, to="numpy", **ORDER)
    loader = js.Loader(SOURCE, shuffle_on=shuffle_on, **ORDER)
    for _ in range(2):
        # Kept to the end: a buffer that was used again before its transfer would show.
        for mine, theirs in zip(list(loader), list(host), strict=True):
            assert next(iter(mine["x"].devices())).platform == "gpu"
            assert np.array_equal(mine["x"], theirs["x"])
            assert np.array_equal(mine["y"], theirs["y"])


def test_batches_go_to_cupy_without_a_copy():
    cupy = pytest.importorskip("cupy")
    batch = next(iter(js.Loader(SOURCE, **ORDER)))
    there = cupy.from_dlpack(batch["x"])
    assert there.data.ptr == batch["x"].unsafe_buffer_pointer()
    assert np.array_equal(np.asarray(jax.numpy.from_dlpack(there)), np.asarray(batch["x"]))
