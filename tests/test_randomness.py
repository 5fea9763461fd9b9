"""Randomness of rows: pinned, since stored runs depend on it."""

import jax
import numpy as np

from jaxstore.loading.randomness import as_words, row_keys, row_seeds


def test_seeds_are_pinned():
    found = row_seeds(np.array([0, 1, 2**40]), seed=7, epoch=3)
    assert found.dtype == np.uint64
    assert found.tolist() == [
        16643683544157866034,
        10673152400995427752,
        407291080150290825,
    ]


def test_seed_epoch_and_row_all_matter():
    rows = np.arange(10_000)
    seen = [row_seeds(rows, seed=s, epoch=e) for s in range(3) for e in range(3)]
    assert len(np.unique(np.concatenate(seen))) == 90_000
    bits = np.unpackbits(seen[0].view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.005


def test_keys_follow_from_seeds():
    seeds = row_seeds(np.arange(4), seed=0, epoch=0)
    keys = row_keys(as_words(seeds))
    assert keys.shape == (4,)
    again = row_keys(as_words(seeds[2:]))
    assert np.array_equal(jax.random.key_data(keys)[2:], jax.random.key_data(again))
    assert len({key.tobytes() for key in np.asarray(jax.random.key_data(keys))}) == 4
