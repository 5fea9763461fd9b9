"""Keys become plain path parts and come back."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxstore.errors import FormatError
from jaxstore.names import MAX_BYTES, decode_key, encode_key, keys_from_json, keys_to_json

PLAIN = re.compile("(?:[A-Za-z0-9_~-]|%[0-9A-F]{2}|%[a-z])+")
RESERVED = frozenset({"chain", "draw", "iteration", "zarr"})

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # shared cores

text = st.text(st.characters(exclude_categories=()))  # lone surrogates too
scalars = st.one_of(
    text,
    st.integers(),
    st.booleans(),
    st.none(),
    st.binary(),
    st.floats(allow_nan=False),
    st.sampled_from(["", ".", "..", "/", "zarr.json", "__x", "%", "%i3", "%h", "chain", "Chain"]),
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


def as_told_apart(key):
    """Python takes 1, 1.0 and True for one key; names do not."""
    inner = tuple(map(as_told_apart, key)) if isinstance(key, tuple) else repr(key)
    return type(key), inner


@pytest.mark.parametrize(
    "key", ["theta", "list_element_0", "mlp_1", "beta-2", "a~b", "_x", "c", "unknown~pytree~leaf~0"]
)
def test_a_plain_name_stays_as_it_is(key):
    assert encode_key(key) == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("", "%s"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("../x", "%2E%2E%2Fx"),
        ("/abs", "%2Fabs"),
        ("a\\b", "a%5Cb"),
        ("a\0b", "a%00b"),
        ("zarr.json", "zarr%2Ejson"),
        ("__zarr", "%5F_zarr"),
        ("100%", "100%25"),
        ("%i3", "%25i3"),
        ("linear\n", "linear%0A"),
        ("ä", "%C3%A4"),
        ("\ud83d", "%ED%A0%BD"),
        (3, "%i3"),
        (-3, "%i-3"),
        (True, "%o1"),
        (None, "%n"),
        (0.5, "%r0%2E5"),
        (-math.inf, "%r-inf"),
        (b"a\xff", "%xa%FF"),
        ((), "%l%z"),
        ((1, ("a", "")), "%l%i1%l%sa%s%z%z"),
    ],
)
def test_every_kind_of_key_has_this_name(key, name):
    assert encode_key(key) == name
    assert as_told_apart(decode_key(name)) == as_told_apart(key)


@unhurried
@given(keys)
def test_a_key_comes_back_from_its_name(key):
    name = encode_key(key, reserved=RESERVED)
    assert PLAIN.fullmatch(name)
    assert len(name) <= MAX_BYTES
    assert not name.startswith("__")
    assert name.lower() not in RESERVED
    if "%h" in name:
        with pytest.raises(FormatError, match="shortened name"):
            decode_key(name)
    else:
        assert as_told_apart(decode_key(name)) == as_told_apart(key)


@unhurried
@given(st.lists(keys, min_size=2, max_size=8, unique_by=as_told_apart))
def test_different_keys_have_different_names(several):
    assert len({encode_key(key, reserved=RESERVED) for key in several}) == len(several)


@unhurried
@given(st.lists(keys, min_size=2, max_size=8, unique_by=as_told_apart))
def test_folded_names_differ_by_more_than_case(several):
    names = {encode_key(key, reserved=RESERVED, fold_case=True).lower() for key in several}
    assert len(names) == len(several)


@unhurried
@given(text)
def test_a_folded_name_decodes_too(key):
    name = encode_key(key, fold_case=True)
    assert not re.search("[A-Z]", re.sub("%[0-9A-F]{2}", "", name))
    assert "%h" in name or decode_key(name) == key


def test_nan_comes_back_as_nan():
    assert math.isnan(decode_key(encode_key(math.nan)))


def test_numpy_scalars_that_equal_python_ones_share_their_names():
    assert encode_key(np.int64(3)) == encode_key(3)
    assert encode_key(np.float64(0.5)) == encode_key(0.5)
    assert encode_key(np.str_("a/b")) == encode_key("a/b")
    assert json.dumps(keys_to_json((np.int64(3), np.str_("a")))) == '[3, "a"]'


@pytest.mark.parametrize("letter", ["a", "ä", ".", "\ud800"])
def test_a_long_key_keeps_a_readable_start_and_a_hash(letter):
    one, other = encode_key(letter * 900 + "1"), encode_key(letter * 900 + "2")
    assert one != other
    assert one[:100] == other[:100] == (encode_key(letter) * 100)[:100]
    assert PLAIN.fullmatch(one)
    assert len(one) <= MAX_BYTES


def test_the_longest_plain_name_is_not_cut():
    assert encode_key("a" * MAX_BYTES) == "a" * MAX_BYTES
    assert "%h" in encode_key("a" * (MAX_BYTES + 1))


def test_reserved_names_are_escaped_whatever_their_case():
    assert encode_key("chain", reserved=RESERVED) == "%63hain"
    assert encode_key("Chain", reserved=RESERVED) == "%43hain"
    assert decode_key("%63hain") == "chain"


@pytest.mark.parametrize("key", [object(), frozenset({1}), 1j, (1, object())])
def test_a_key_of_another_type_is_refused(key):
    with pytest.raises(FormatError, match=r"of type \w+ cannot name an array.*Use str, int"):
        encode_key(key)


@pytest.mark.parametrize(
    "name",
    [
        *[
            ".",
            "a/b",
            "a.b",
            "%",
            "%4",
            "%2f",
            "%q1",
            "%i",
            "%ix",
            "%o2",
            "%n1",
            "%rx",
            "%FF",
            "%l",
            "%z",
            "%h12",
            "ä",
        ],
        *["%i1%i2", "%l%i1", "%lx%z", "%l%zx", "a%i3"],
        *["", "%i3\n", "theta\n"],
    ],
)
def test_what_encode_key_never_gives_is_refused(name):
    with pytest.raises(FormatError):
        decode_key(name)


@unhurried
@given(st.lists(keys, max_size=4))
def test_keys_come_back_from_json(several):
    there = json.dumps(keys_to_json(several), allow_nan=False)
    assert as_told_apart(keys_from_json(json.loads(there))) == as_told_apart(tuple(several))


def test_json_keeps_text_readable_and_two_lone_surrogates_two():
    assert keys_to_json(["ä", 3, True]) == ["ä", 3, True]
    assert keys_to_json(["\ud83d\ude00"]) == [{"key": "%s%ED%A0%BD%ED%B8%80"}]


@pytest.mark.parametrize("value", [0.5, [], {}, {"key": 1}, {"key": "%q"}, {"key": "%i1", "b": 1}])
def test_json_that_is_no_key_is_refused(value):
    with pytest.raises(FormatError):
        keys_from_json([value])
