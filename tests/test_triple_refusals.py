"""What `save` refuses, by name, and that nothing is lost by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import KINDS, STORED

import jaxstore as js

BAD = {
    "structure": ({"x": jnp.zeros(2), "y": 0.0}, {"x": jnp.zeros(2)}, "missing: .*'y'"),
    "shape": ({"x": jnp.zeros(2)}, {"x": jnp.zeros(3)}, r"\['x'\].*\(3,\).*\(2,\)"),
    "dtype": ({"x": jnp.zeros(2)}, {"x": jnp.zeros(2, int)}, r"\['x'\].*int32.*float32"),
    "key": ({"k": jax.random.key(0)}, {"k": jax.random.split(jax.random.key(0))}, r"\['k'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_sample_unlike_the_first_is_refused_by_name(case):
    first, other, message = BAD[case]
    init_save, save, _ = js.save()
    with pytest.raises(js.MismatchError, match=message):
        save(init_save(first), True, other)


def test_bad_arguments_are_refused():
    init_save, save, postprocess_save = js.save()
    with pytest.raises(js.MismatchError, match="object"):
        init_save({"x": np.array(["a", None], object)})
    with pytest.raises(js.MismatchError, match="one bool"):
        save(init_save(0.0), jnp.ones(3, bool), 0.0)
    with pytest.raises(ValueError, match="buffer_draws"):
        js.save(buffer_draws=0)
    with pytest.raises(TypeError, match="no collector"):
        js.save("run.zarr")
    with pytest.raises(ValueError, match="samples_collected"):
        js.static_information(samples_collected=-1)
    with pytest.raises(TypeError, match="outside"):
        jax.jit(lambda: postprocess_save(init_save(0.0))["sample_count"])()


def test_a_state_that_was_post_processed_is_refused():
    init_save, save, postprocess_save = js.save()
    state, _ = save(init_save(0.0), True, 1.0)
    postprocess_save(state)
    with pytest.raises(js.BusyError, match="finished"):
        postprocess_save(state)


def test_running_one_state_twice_is_an_error_not_a_repetition():
    collector = js.MemoryCollector()
    init_save, save, _ = js.save(collector, buffer_draws=4)
    state = init_save(jnp.int32(0))
    run = jax.jit(lambda s: jax.lax.scan(lambda s, i: save(s, True, i), s, jnp.arange(20))[0])
    jax.block_until_ready(run(state))
    with pytest.raises(js.MismatchError, match="run twice"), collector:
        jax.block_until_ready(run(state))


@pytest.mark.parametrize("kind", STORED)
def test_more_draws_than_declared_are_an_error_with_the_declared_ones_saved(kind, tmp_path):
    collector = KINDS[kind](tmp_path)
    init_save, save, postprocess_save = js.save(collector, buffer_draws=64)
    state = init_save({"i": jnp.int32(0)}, None, js.static_information(samples_collected=7))

    def run(state):
        return jax.lax.scan(lambda s, i: save(s, True, {"i": i}), state, jnp.arange(9))[0]

    with pytest.raises(js.TooManyDrawsError, match="7 draws"), collector:
        postprocess_save(jax.jit(run)(state))
    if kind != "memory":
        run = js.open_run(next(tmp_path.iterdir()))
        assert np.asarray(run.samples["i"]).tolist() == [list(range(7))]
        assert run.state == "interrupted"


def test_fewer_draws_than_declared_show_no_filler():
    init_save, save, postprocess_save = js.save()
    state = init_save(0.0, None, js.static_information(samples_collected=100))
    state, _ = save(state, True, 1.0)
    assert postprocess_save(state)["samples"].tolist() == [1.0]
