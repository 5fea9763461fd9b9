"""Reductions: the numbers, the order, and that what fills a batch up never counts."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxstore.errors import MismatchError
from jaxstore.processing.fold import compile_fold
from jaxstore.processing.kernel import kernel_of
from jaxstore.processing.reduce import (
    Reduce,
    combine_all,
    fingerprint_of,
    result_of,
    state_of,
)
from jaxstore.processing.reductions import reduction

NAMES = ("sum", "mean", "min", "max", "variance")
TRUTH = {"sum": np.sum, "mean": np.mean, "min": np.min, "max": np.max, "variance": np.var}
LARGEST = Reduce(
    lambda value: jnp.full(value.shape, -jnp.inf),
    jnp.maximum,
    jnp.maximum,
    lambda state: state,
)

LATEST = Reduce(
    lambda value: jnp.zeros(value.shape, value.dtype),
    lambda state, value: value,
    lambda a, b: b,
    lambda state: state,
)


def rows(n, width=3, dtype="f4", seed=0, mean=0.0):
    return (np.random.default_rng(seed).normal(size=(n, width)) * 5 + mean).astype(dtype)


def reduced(values, wanted, units, *, batch_size=4, function=lambda x: x):
    """The result of units, each a slice."""
    kernel = kernel_of(function, jax.tree.map(lambda v: v[0], values), {})
    made = reduction(wanted)
    fold = compile_fold(kernel, made, batch_size)
    partials = [fold(fold.start, jax.tree.map(lambda v, u=u: v[u], values)) for u in units]
    return combine_all(made, kernel.out, partials)


def cut(n, unit):
    return [slice(start, start + unit) for start in range(0, n, unit)]


@settings(max_examples=4, deadline=None)  # each compiles how states meet, anew
@given(n=st.integers(1, 60), unit=st.integers(1, 13), mean=st.sampled_from([0.0, 1e4]))
@pytest.mark.parametrize("name", NAMES)
def test_named_reductions_agree_with_numpy(name, n, unit, mean):
    values = rows(n, mean=mean, seed=n)
    kernel, made, fold = of_rows(name)
    found = combine_all(made, kernel.out, [fold(fold.start, values[u]) for u in cut(n, unit)])
    assert (found.dtype, found.shape) == (np.float32, (3,))
    truth = TRUTH[name](values.astype("f8"), axis=0)
    # Numbers near 1e4 are 1e-3 apart, and so are means of them.
    np.testing.assert_allclose(found, truth, rtol=1e-5, atol=0.03 if mean else 1e-5)


@cache
def of_rows(wanted):
    kernel = kernel_of(lambda x: x, rows(1)[0], {})
    made = reduction(wanted)
    return kernel, made, compile_fold(kernel, made, 4)


def test_a_variance_survives_a_mean_that_is_far_larger():
    values = rows(4096, mean=1e5)
    found = reduced(values, "variance", cut(4096, 100), batch_size=16)
    np.testing.assert_allclose(found, values.astype("f8").var(axis=0), rtol=2e-3)


@pytest.mark.parametrize("wanted", [*NAMES, LARGEST])
def test_what_fills_a_batch_up_never_counts(wanted):
    values = rows(5)  # batches of 4: the last value would count four times
    values[4] = 1e3
    kernel, made, fold = of_rows(wanted)
    found = combine_all(made, kernel.out, [fold(fold.start, values)])
    truth = TRUTH.get(wanted, np.max)(values.astype("f8"), axis=0)
    np.testing.assert_allclose(found, truth, rtol=1e-5)


@pytest.mark.parametrize("wanted", [*NAMES, LARGEST])
def test_states_that_were_stored_give_the_same_bits(wanted):
    values = rows(37)
    kernel, made, fold = of_rows(wanted)
    units = cut(37, 8)
    straight = [fold(fold.start, values[unit]) for unit in units]
    structure = jax.tree.structure(state_of(made, kernel.out))
    again = compile_fold(kernel, made, 4)  # as another process does
    stored = {}
    for i in (3, 0, 4, 2, 1):  # as workers end
        partial = again(again.start, values[units[i]].copy())
        stored[i] = [np.array(leaf) for leaf in jax.tree.leaves(partial)]
    back = (jax.tree.unflatten(structure, stored[i]) for i in range(5))
    one, two = (combine_all(made, kernel.out, p) for p in (straight, back))
    assert one.tobytes() == two.tobytes()


def test_outputs_of_a_pytree_are_reduced_each_by_itself():
    values = {"a": rows(7), "b": np.arange(7, dtype="i4")}
    found = reduced(values, "mean", cut(7, 3), function=lambda x: (x["b"], {"c": x["a"][:2]}))
    np.testing.assert_allclose(found[0], 3.0)
    np.testing.assert_allclose(found[1]["c"], values["a"][:, :2].mean(0), rtol=1e-5)


DTYPES = {
    "sum": {"i4": "i4", "i1": "i4", "u1": "u4", "?": "i4", "bfloat16": "bfloat16", "c8": "c8"},
    "mean": {"i4": "f4", "?": "f4", "f2": "f2", "c8": "c8"},
    "variance": {"i2": "f4", "c8": "f4", "f2": "f2"},
    "min": {"u1": "u1", "?": "?", "bfloat16": "bfloat16", "int4": "int4", "i4": "i4"},
    "max": {"?": "?", "float8_e4m3fn": "float8_e4m3fn", "i2": "i2"},
}


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_follow_the_stated_rules(name):
    numbers = np.random.default_rng(0).integers(1, 3, (9, 2))
    numbers[:, 0] = 1
    values = {dtype: np.asarray(numbers, jnp.dtype(dtype)) for dtype in DTYPES[name]}
    found = reduced(values, name, cut(9, 4))
    kernel = kernel_of(lambda x: x, {dtype: leaf[0] for dtype, leaf in values.items()}, {})
    result = result_of(reduction(name), kernel.out)
    for dtype, wanted in DTYPES[name].items():
        assert found[dtype].dtype == result[dtype].dtype == jnp.dtype(wanted)
        wide = values[dtype].astype("c16" if dtype == "c8" else "f8")
        truth = TRUTH[name](wide, axis=0)
        np.testing.assert_allclose(found[dtype].astype(truth.dtype), truth, rtol=1e-2)


def test_a_sum_of_half_floats_keeps_more_than_they_hold():
    ones = np.ones((5001, 1), "f2")  # half floats are 2 apart from 2048 on, and 4 from 4096
    assert reduced(ones, "sum", [slice(0, 5001)], batch_size=3).item() == 5000


def test_infinities_and_nan_come_through():
    values = np.array([[np.inf, np.nan], [np.inf, 1.0]], "f4")
    assert reduced(values, "min", cut(2, 1))[0] == np.inf
    assert np.isnan(reduced(values, "max", cut(2, 1))[1])
    assert reduced(values, "mean", cut(2, 1))[0] == np.inf


def test_complex_numbers_have_no_least():
    with pytest.raises(MismatchError, match=r"output\['z'\] is complex64, which has no order"):
        reduced(np.ones((3, 2), "c8"), "min", cut(3, 1), function=lambda x: {"z": x})


@pytest.mark.parametrize("name", NAMES)
def test_no_items_have_no_result(name):
    out = jax.ShapeDtypeStruct((2,), jnp.float32)
    with pytest.raises(MismatchError, match=f"'{name}' of no items"):
        combine_all(reduction(name), out, [])


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_count_has_no_effect(name):
    _, made, fold = of_rows(name)
    values = jnp.asarray([[1.0, 2, 3], [4, 5, 6], [1e9, -1e9, jnp.nan], [-1e9, jnp.inf, 1e9]])
    counts = jnp.asarray([True, True, False, False])
    one, two = (made.update(fold.start, v, counts) for v in (values, values.at[2:].set(0)))
    for here, there in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(here, there)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one))


@pytest.mark.parametrize("wanted", ["min", "variance", LATEST])
def test_units_of_which_no_item_came_through_are_left_out(wanted):
    kernel, made, fold = of_rows(wanted)
    full = fold(fold.start, rows(6))
    with_gaps = combine_all(made, kernel.out, [fold.start, full, fold.start])
    assert with_gaps.tobytes() == combine_all(made, kernel.out, [full]).tobytes()
    with pytest.raises(MismatchError, match="of no items"):
        combine_all(made, kernel.out, [fold.start])


def test_a_reduction_of_ones_own_sees_each_item_once_in_order():
    values = np.arange(1, 12, dtype="i4").reshape(11, 1)
    digits = Reduce(
        init=lambda value: {"text": jnp.zeros((), jnp.int32), "n": 0},
        update=lambda s, v: {"text": s["text"] * 3 + v[0], "n": s["n"] + 1},
        combine=lambda a, b: {"text": a["text"] * 3 ** b["n"] + b["text"], "n": a["n"] + b["n"]},
        finalize=lambda s: s["text"],
    )
    wanted = 0
    for value in values[:, 0]:
        wanted = wanted * 3 + int(value)
    assert reduced(values, digits, cut(11, 3), batch_size=2) == wanted
    assert reduced(values, digits, cut(11, 11), batch_size=8) == wanted


def test_an_init_that_takes_the_value_for_an_item_fails():
    first = LARGEST._replace(init=lambda value: value + 0)
    with pytest.raises(TypeError, match="ShapeDtypeStruct"):
        reduced(rows(3), first, cut(3, 3))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"update": lambda s, v: v.astype(jnp.int32)},
            r"update gives state as int32\[3\], init as",
        ),
        ({"update": lambda s, v: (s, v)}, r"update gives PyTreeDef\(\(\*, \*\)\), init gives"),
        ({"combine": lambda a, b: a[:2]}, r"combine gives state as float32\[2\], init as float32"),
    ],
)
def test_parts_that_do_not_fit_say_so(changed, words):
    values = rows(5)
    with pytest.raises(MismatchError, match=words):
        reduced(values, LARGEST._replace(**changed), cut(5, 2))
    if "combine" in changed:
        out = jax.ShapeDtypeStruct((3,), jnp.float32)
        with pytest.raises(MismatchError, match=words):
            result_of(reduction(LARGEST._replace(**changed)), out)


def test_a_name_that_is_none_lists_those_that_are():
    with pytest.raises(ValueError, match="reduce is 'median'. Give 'mean', 'sum'"):
        reduction("median")


def test_fingerprints_tell_reductions_apart():
    out = jax.ShapeDtypeStruct((3,), jnp.float32)
    edited = LARGEST._replace(finalize=lambda state: state + 1)
    alike = Reduce(
        lambda value: jnp.full(value.shape, -jnp.inf),
        jnp.maximum,
        jnp.maximum,
        lambda held: held,
    )
    found = [fingerprint_of(reduction(r), out) for r in (*NAMES, LARGEST, edited)]
    assert len(set(found)) == len(found)
    assert fingerprint_of(reduction(alike), out) == fingerprint_of(reduction(LARGEST), out)


def test_a_fold_tells_the_memory_of_its_states_and_starts_empty():
    kernel = kernel_of(lambda x: jnp.outer(x, x), jax.ShapeDtypeStruct((512,), jnp.float32), {})
    fold = compile_fold(kernel, reduction("max"), 8)
    assert fold.n_bytes >= 2 * kernel.out_bytes  # a state in, a state out
    assert fold.start.n_items == 0
