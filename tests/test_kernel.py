"""What a function takes and gives, found without a call on data, and the words if it cannot be."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstore.errors import FormatError, MismatchError
from jaxstore.processing.kernel import kernel_of

ITEM = np.zeros(8, "f4")


def fit(x, *, width=1):
    return {"amp": x.max() * width, "pos": x.argmax()}


def struct(shape, dtype):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def test_shapes_and_dtypes_are_known():
    kernel = kernel_of(fit, ITEM, {"width": 3})
    assert kernel.item == struct((8,), "f4")
    assert kernel.out == {"amp": struct((), "f4"), "pos": struct((), "i4")}
    assert (kernel.item_bytes, kernel.out_bytes) == (32, 8)


def test_an_item_is_a_pytree_like_the_source():
    item = {"a": np.zeros(3, "f4"), "b": (np.zeros((), "i2"),)}
    kernel = kernel_of(lambda x: (x["b"][0], x["a"]), item, {})
    assert kernel.out == (struct((), "i2"), struct((3,), "f4"))


def test_the_function_is_never_run():
    seen = []
    kernel_of(lambda x: seen.append(x) or x, ITEM, {})
    assert all(isinstance(x, jax.core.Tracer) for x in seen)
    assert seen


def test_numbers_become_arrays_and_weak_types_strong():
    kernel = kernel_of(lambda x: {"f": 1.5, "i": 2, "b": True, "n": None, "c": 2j}, ITEM, {})
    assert kernel.out["n"] is None
    assert {k: s.dtype.name for k, s in kernel.out.items() if s is not None} == {
        "f": "float32", "i": "int32", "b": "bool", "c": "complex64",
    }  # fmt: skip
    assert not any(s.weak_type for s in jax.tree.leaves(kernel.out))


def test_parameters_are_concrete():
    kernel = kernel_of(
        lambda x, *, n, how: x[:n] if how == "head" else x, ITEM, dict(n=3, how="head")
    )
    assert kernel.out.shape == (3,)


def test_a_helper_that_was_defined_anew_is_seen():
    scale = {"shape": 2}
    function = lambda x: jnp.zeros(scale["shape"])  # noqa: E731
    assert kernel_of(function, ITEM, {}).out.shape == (2,)
    scale["shape"] = 5
    assert kernel_of(function, ITEM, {}).out.shape == (5,)


@pytest.mark.parametrize(
    ("function", "params", "words"),
    [
        (fit, {"widht": 3}, r"fit\(x, \*, width=1\) .* \['widht'\]: .*'widht'. It takes \['x', 'w"),
        (lambda x, *, by: x, {}, r"missing a required .*'by'"),
        (lambda: 1, {}, "too many positional"),
        (lambda x, y: x, {}, r"'y'.* several arrays come as one item"),
        (partial(fit, width=2), {"wide": 3}, r"fit\(.*'wide'"),
    ],
)
def test_a_call_that_cannot_be_names_what_the_function_takes(function, params, words):
    with pytest.raises(MismatchError, match=words):
        kernel_of(function, ITEM, params)


def test_an_error_while_it_is_traced_keeps_its_type_and_says_where():
    class OwnError(Exception):
        pass

    def fails(x):
        raise OwnError("no luck")

    with pytest.raises(OwnError, match="no luck") as caught:
        kernel_of(fails, {"a": ITEM}, {})
    assert "while fails was traced for {'a': 'float32[8]'}" in caught.value.__notes__


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: "text", "output of <lambda> is 'text' of type str, which is no array"),
        (lambda x: {"a": (object(), x)}, r"output\['a'\]\[0\] of <lambda> is <object"),
        (lambda x: np.array(["a"]), "is an array of <U1, which JAX does not know"),
        (lambda x: None, "gives None, no array at all"),
        (lambda x: {}, "gives {}, no array at all"),
        (lambda x: [jax.random.key(0)], r"output\[0\] of <lambda> is a typed key, key<.*key_data"),
        (lambda x: struct((), "f4"), "of type ShapeDtypeStruct, which is no array"),
    ],
)
def test_outputs_that_are_no_arrays_are_refused(function, words):
    with pytest.raises(FormatError, match=words):
        kernel_of(function, ITEM, {})


@pytest.mark.parametrize(
    ("dtype", "kept"), [("f8", "float32"), ("i8", "int32"), ("u8", "uint32"), ("c16", "complex64")]
)
def test_64_bits_are_never_truncated_silently(dtype, kept):
    words = rf"item\['a'\]\[1\] is {np.dtype(dtype)}, and JAX would make {kept} .*jax_enable_x64"
    with pytest.raises(MismatchError, match=words):
        kernel_of(lambda x: x, {"a": (ITEM, np.zeros(2, dtype))}, {})
    with jax.enable_x64(True):
        assert kernel_of(lambda x: x, np.zeros(2, dtype), {}).out.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ([("a", "f4"), ("b", "i4")], r"Give a field of \['a', 'b'\] as its own array"),
        ("S3", "Store numbers"),
        ("M8[s]", "Store numbers"),
        ("g", "Store numbers"),
    ],
)
def test_items_that_jax_cannot_hold_are_refused(dtype, words):
    with pytest.raises(MismatchError, match=rf"item is .*, of which JAX has no arrays. {words}"):
        kernel_of(lambda x: x, np.zeros(3, dtype), {})


def test_items_in_the_other_byte_order_are_taken():
    assert kernel_of(lambda x: x, np.zeros(3, ">f4"), {}).item == struct((3,), "f4")


def test_a_function_of_batches():
    kernel = kernel_of(lambda xs, *, by: {"m": xs.mean(1) * by}, ITEM, {"by": 2}, is_batched=True)
    assert kernel.item == struct((8,), "f4")
    assert kernel.out == {"m": struct((), "f4")}


@pytest.mark.parametrize(
    "function",
    [
        lambda xs: xs.sum(),
        lambda xs: xs.sum(0),
        lambda xs: xs.T,
        lambda xs: xs[:2],  # right for one size alone
        lambda xs: xs @ xs.T,
        lambda xs: {"a": xs, "b": 1.0},
    ],
)
def test_a_function_of_batches_that_mixes_items_is_refused(function):
    with pytest.raises(FormatError, match="must have the items on axis 0"):
        kernel_of(function, ITEM, {}, is_batched=True)
