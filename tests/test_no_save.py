"""The triple that keeps draws on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js


def run(declared, mask, start=0):
    init_save, save, postprocess_save = js.no_save()
    sample = {"i": jnp.int32(0), "k": jax.random.key(0)}
    state = init_save(sample, None, js.static_information(samples_collected=declared))
    state, _ = jax.lax.scan(
        lambda s, x: save(s, x[1], {"i": x[0], "k": jax.random.key(x[0])}),
        state, (start + jnp.arange(len(mask)), jnp.asarray(mask)),
    )  # fmt: skip
    return state, postprocess_save


@pytest.mark.parametrize("is_jitted", [False, True])
def test_kept_draws_are_returned_cut_to_their_number(is_jitted):
    mask = np.random.default_rng(0).random(15) < 0.5
    state = (jax.jit(lambda: run(15, mask)[0]) if is_jitted else lambda: run(15, mask)[0])()
    saved = run(15, mask)[1](state)
    assert saved["samples"]["i"].tolist() == np.flatnonzero(mask).tolist()
    want = jax.vmap(lambda i: jax.random.key_data(jax.random.key(i)))(np.flatnonzero(mask))
    assert np.array_equal(jax.random.key_data(saved["samples"]["k"]), want)


def test_more_draws_than_declared_raise_outside_and_are_told_inside_jit():
    state, postprocess_save = run(2, [True] * 3)
    with pytest.raises(js.TooManyDrawsError, match="3 draws.*declares 2"):
        postprocess_save(state)
    saved = jax.jit(lambda: postprocess_save(run(2, [True] * 3)[0]))()
    assert int(saved["sample_count"]) == 3
    assert saved["samples"]["i"].tolist() == [0, 1]


def test_vmap_counts_each_chain():
    masks = np.array([[1, 0, 1, 1], [0, 0, 1, 0]], bool)
    init_save, save, postprocess_save = js.no_save()

    def chain(mask):
        state = init_save(0, None, js.static_information(samples_collected=4))
        return jax.lax.scan(lambda s, x: save(s, x[1], x[0]), state, (jnp.arange(4), mask))[0]

    saved = postprocess_save(jax.vmap(chain)(masks))
    assert saved["sample_count"].tolist() == [3, 1]
    assert saved["samples"][0].tolist() == [0, 2, 3]
    assert saved["samples"][1, :1].tolist() == [2]


def test_the_length_must_be_declared_and_samples_must_agree():
    init_save, save, _ = js.no_save()
    with pytest.raises(ValueError, match="static_information"):
        init_save(0.0)
    state = init_save({"x": 0.0}, None, js.static_information(samples_collected=2))
    with pytest.raises(js.MismatchError, match=r"\['x'\].*int32.*float32"):
        save(state, True, {"x": jnp.int32(1)})
