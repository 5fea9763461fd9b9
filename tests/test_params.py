from __future__ import annotations

import collections
import enum
import functools
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from jaxstore.errors import FormatError
from jaxstore.processing.params import Opaque, canonical, decode_params, encode_params


class Colour(enum.Enum):
    RED = 1
    BLUE = (2.0, "b")


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Pair(NamedTuple):
    a: object
    b: object


@jax.tree_util.register_pytree_node_class
class Scaled:
    """A node with a static part."""

    def __init__(self, values, static):
        self.values, self.static = values, static

    def tree_flatten(self):
        return (self.values,), self.static

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(*children, static)


def kernel(x):
    return x


def json_of(value):
    """As it comes out of a store."""
    found = encode_params({"x": value})
    return json.loads(json.dumps(found.json)), found.arrays


def same(one, other):
    """Equal in type, and in all that a kernel could see."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(sorted_items(one), sorted_items(other))
    if isinstance(one, (np.ndarray, np.generic)):
        bits = (one.shape, one.dtype, one.tobytes()) == (other.shape, other.dtype, other.tobytes())
        return bits
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, complex):
        return repr(one.real) == repr(other.real) and repr(one.imag) == repr(other.imag)
    return one == other


def sorted_items(mapping):
    return [
        [k, v] for k, v in sorted(mapping.items(), key=lambda kv: (str(type(kv[0])), repr(kv[0])))
    ]


numbers = st.sampled_from([np.dtype(c) for c in "?bhilBHILefdFD"])
arrays = st_numpy.arrays(numbers, st_numpy.array_shapes(min_dims=0, min_side=0, max_side=3))
plain = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats()
    | st.sampled_from([0.0, -0.0, 1.0, 1e-12, 2e-12]) | st.complex_numbers() | st.text(max_size=4)
    | st.binary(max_size=4) | st.sampled_from([*Colour, Bits.A | Bits.B, Bits.A])
    | st.sampled_from([np.dtype("f4"), np.dtype(ml_dtypes.bfloat16), np.float32, jnp.float32])
)  # fmt: skip
keys = st.text(max_size=2) | st.integers(-2, 2) | st.none() | st.binary(max_size=2)
leaves = plain | arrays | arrays.filter(lambda a: a.size).map(lambda a: a.reshape(-1)[0])
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values)
def test_what_is_decoded_is_what_was_given(value):
    encoded, found = json_of(value)
    assert same(decode_params(encoded, found)["x"], value)


@given(values, values)
def test_json_is_equal_exactly_for_equal_values(one, other):
    first, second = encode_params({"x": one}).json, encode_params({"x": other}).json
    # In Python as well as in text: whoever compares the JSON may use either.
    assert (canonical(first) == canonical(second)) == same(one, other)
    assert (first == second) == same(one, other)


DIFFERENT = [
    None, False, True, 0, 1, 0.0, -0.0, 1.0, 1e-12, 2e-12, math.nan, math.inf, -math.inf, 1 +
    0j, "1", "", b"1", b"", [], (), {}, [1], (1,), (1.0,), [[1]], {"a": 1}, {"a": None}, {1: 1},
    {"1": 1}, {True: 1}, {1.0: 1}, np.float32(1), np.float64(1), np.int64(1), np.int32(1),
    np.bool_(True), np.asarray(1, ml_dtypes.bfloat16)[()], np.asarray(1.0), np.ones(1),
    np.ones((1, 1)), np.ones((2, 3)), np.ones((3, 2)), np.ones(6), np.ones(6, "f4"), np.ones(6,
    bool), np.full(6, 1e-12), np.full(6, 2e-12), np.zeros(6), -np.zeros(6), np.ones(6,
    ml_dtypes.bfloat16), jax.random.key(0), jax.random.key(1), jax.random.key(0, impl="rbg"),
    jax.random.key(0, impl="unsafe_rbg"), jax.random.split(jax.random.key(0), 2),
    jax.random.key_data(jax.random.key(0)), Colour.RED, Colour.BLUE, Bits.A, Bits.A | Bits.B,
    np.dtype("f4"), np.dtype("f8"), np.float32, jnp.float32, float, "float32", kernel, jnp.sin,
    np.sin, jax.nn.relu, Pair(1, 2), Pair(1, 2.0), Pair(2, 1), (1, 2), {"a": 1, "b": 2},
    collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), Scaled(1, "s"),
    Scaled(1, "t"), Scaled(1, np.zeros(2000)), Scaled(1, np.eye(2000)[7]), Scaled(1,
    np.eye(2000)[1000]), Scaled(None, "s"), Scaled((1,), "s"), jax.tree_util.Partial(kernel, 1),
    jax.tree_util.Partial(kernel, 2),
]  # fmt: skip


def test_values_that_are_nearly_the_same_are_not():
    texts: dict[str, object] = {}
    for value in DIFFERENT:
        text = canonical(encode_params({"x": value}).json)
        if text in texts:
            assert same(texts[text], value), f"{value!r} passes for {texts[text]!r}"
        texts[text] = value
    assert len(texts) == len(DIFFERENT)
    found = [encode_params({"x": value}).json for value in DIFFERENT]
    assert not any(one == other for i, one in enumerate(found) for other in found[:i])


def test_a_parameter_that_is_none_is_not_one_that_is_absent():
    assert encode_params({"x": None}).json != encode_params({}).json
    assert decode_params(encode_params({"x": None}).json, {}) == {"x": None}


def test_the_order_in_which_dicts_were_filled_is_nothing():
    one = {"a": 1, "b": {"c": 1, 2: np.ones(2), None: 3}}
    other = {"b": {None: 3, 2: np.ones(2), "c": 1}, "a": 1}
    assert canonical(encode_params(one).json) == canonical(encode_params(other).json)


def test_arrays_of_jax_are_as_those_of_numpy_and_come_back_as_such():
    values = np.arange(3, dtype="f4")
    encoded = encode_params({"x": jnp.asarray(values)})
    assert encoded.json == encode_params({"x": values}).json
    found = decode_params(encoded.json, encoded.arrays)["x"]
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, values)


def test_bytes_lie_in_any_order():
    assert encode_params({"x": np.arange(3, dtype=">i4")}).json == (
        encode_params({"x": np.arange(3, dtype="<i4")}).json
    )
    assert encode_params({"x": np.asfortranarray(np.eye(3)[:2])}).json == (
        encode_params({"x": np.eye(3)[:2]}).json
    )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_come_back(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 2)
    found = decode_params(*json_of(keys))["x"]
    assert found.dtype == keys.dtype
    assert bool((found == keys).all())


@pytest.mark.parametrize("value", [kernel, jnp.sin, np.sin, jax.nn.relu, float, jnp.float32])
def test_what_has_a_name_comes_back(value):
    assert decode_params(*json_of(value))["x"] is value


@pytest.mark.parametrize("value", [lambda x: x, Pair(1, np.ones(2)), Scaled(1, object())])
def test_what_cannot_be_built_again_is_opaque(value):
    encoded, found = json_of(value)
    assert decode_params(encoded, found) == {"x": Opaque(encoded["x"])}
    assert json_of(value)[0] == encoded


def test_nothing_is_imported_to_decode():
    encoded = {"x": {"type": "named", "name": "antigravity:fly"}}
    assert decode_params(encoded, {}) == {"x": Opaque(encoded["x"])}
    assert "antigravity" not in __import__("sys").modules
    gone = {"type": "enum", "name": f"{__name__}:Colour", "value": 77}
    assert decode_params({"x": gone}, {}) == {"x": Opaque(gone)}


def test_arrays_have_names_of_their_own():
    encoded = encode_params(
        {
            "a": {"b": np.ones(1), "b/c": np.ones(2)},
            "a/b": np.ones(3),
            "l": [np.ones(4), {0: np.ones(5), "0": np.ones(6)}],
        }
    )
    assert sorted(array.size for array in encoded.arrays.values()) == [1, 2, 3, 4, 5, 6]
    assert "a/b" in encoded.arrays
    found = decode_params(encoded.json, encoded.arrays)
    assert found["l"][1]["0"].size == 6


def test_arrays_are_kept_as_they_were():
    values = np.ones(3)
    encoded = encode_params({"x": values})
    values[:] = 0
    np.testing.assert_array_equal(decode_params(encoded.json, encoded.arrays)["x"], 1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), r"params\['x'\] has a builtins.object"),
        ({"deep": [1, {2}]}, r"params\['x'\]\['deep'\]\[1\] has a builtins.set.*Give numbers"),
        (np.array(["a"]), r"params\['x'\] has an array of <U1.*as a list"),
        (np.array([None]), "array of object.*arrays of numbers"),
        (np.zeros(2, "M8[s]"), r"view\('int64'\)"),
        (np.ma.ones(2), "its values and its mask"),
        (np.longdouble(1), "longdouble"),
        (functools.partial(kernel, 1), "functools.partial"),
        ({frozenset(): 1}, r"params\['x'\] has a key.*Use text"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_name(value, words):
    with pytest.raises(TypeError, match=words):
        encode_params({"x": value})
    with pytest.raises(TypeError, match="names of keywords"):
        encode_params({3: 1})


def test_damage_is_noticed():
    encoded = encode_params({"x": np.arange(3.0)})
    with pytest.raises(FormatError, match=r"'x' is damaged"):
        decode_params(encoded.json, {"x": np.arange(3.0) + 1})
    with pytest.raises(FormatError, match=r"'x' is damaged"):
        decode_params(encoded.json, {"x": np.arange(3.0)[None]})
    with pytest.raises(FormatError, match="parameters are damaged"):
        decode_params(encoded.json, {})
    with pytest.raises(FormatError, match="'later'.*Update jaxstore"):
        decode_params({"x": {"type": "later"}}, {})
    for broken in ({}, {"type": "float", "value": "x"}, {"type": "scalar", "dtype": "f99"}):
        with pytest.raises(FormatError):
            decode_params({"x": broken}, {})
