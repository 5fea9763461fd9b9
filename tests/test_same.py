from __future__ import annotations

import json
from dataclasses import fields, replace

import jax
import numpy as np
import pytest

from jaxstore.processing.params import encode_params
from jaxstore.processing.same import Computation, SourceIdentity, differences, shown

RAW = SourceIdentity("", "/data/a.h5:/raw", "raw", (100, 8), "float32", 0, "stat", "5e1f")


def params(**values):
    return encode_params(values).json


ONE = Computation("peak", "0f0f", "0.10.2", None, params(width=3, mode=None), (RAW,))

CHANGES = {
    "params.width is 3 there and 5 here": {"params": params(width=5, mode=None)},
    "params.width is 3 there and 3.0 here": {"params": params(width=3.0, mode=None)},
    "params.width is 3 there and True here": {"params": params(width=True, mode=None)},
    "params.mode is None there and not given here": {"params": params(width=3)},
    "params.more is not given there and None here": {
        "params": params(width=3, mode=None, more=None)
    },
    "params.mode is None there and 'fast' here": {"params": params(width=3, mode="fast")},
    "the name is 'peak' there and 'peaks' here": {"name": "peaks"},
    "the program differs (edited kernel or helper)": {"program": "1e1e"},
    "the program differs (edited kernel or helper, or another version of JAX: 0.10.2 there, "
    "0.12.0 here)": {"program": "1e1e", "jax": "0.12.0"},
    "the program counts there and version is '2' here": {"version": "2"},
    "raw was changed since": {"sources": (replace(RAW, mark="6a"),)},
    "another source: raw in /data/a.h5:/raw there, raw in /data/b.h5:/raw here": {
        "sources": (replace(RAW, place="/data/b.h5:/raw"),)
    },
    "another source: raw in /data/a.h5:/raw there, g/raw in /data/a.h5:/raw here": {
        "sources": (replace(RAW, name="g/raw"),)
    },
    "raw has shape (100, 8) there and (8, 100) here": {"sources": (replace(RAW, shape=(8, 100)),)},
    "raw has dtype 'float32' there and 'int32' here": {"sources": (replace(RAW, dtype="int32"),)},
    "raw has axis 0 there and 1 here": {"sources": (replace(RAW, axis=1),)},
    "x: raw has label '' there and 'x' here": {"sources": (replace(RAW, label="x"),)},
    "raw was compared by stat there, and is by token here": {
        "sources": (replace(RAW, kind="token"),)
    },
    "there are 1 sources there and 2 here": {"sources": (RAW, RAW)},
    "the items selected: none there and 77 here": {"selection": "77"},
    "reduce: none there and mean here": {"reduce": "mean"},
    "the blocks of channels: none there and [0, 2] here": {"channels": [0, 2]},
    "the dtype of the items: none there and float16 here": {"cast": "float16"},
    "only one of them may get more items": {"is_growing": True},
}  # fmt: skip


@pytest.mark.parametrize("words", CHANGES)
def test_each_difference_makes_another_computation_and_has_its_words(words):
    other = replace(ONE, **CHANGES[words])
    assert other.fingerprint != ONE.fingerprint
    assert differences(ONE, other) == [words]
    assert differences(other, ONE) != []
    assert differences(other, other) == []


def test_each_field_decides_but_the_version_of_jax():
    changed = {name for change in CHANGES.values() for name in change}
    assert changed == {field.name for field in fields(Computation)}
    newer = replace(ONE, jax="0.12.0")
    assert newer.fingerprint == ONE.fingerprint
    assert differences(ONE, newer) == []


def test_a_record_survives_json():
    values = params(a=1, b=(2.0, np.float32(1)), c={"d": np.ones(3)}, k=jax.random.key(1), f=np.sin)
    for one in (ONE, replace(ONE, params=values, channels=[0, 2], cast=["float16", None])):
        again = Computation.from_json(json.loads(json.dumps(one.to_json())))
        assert again == one
        assert again.fingerprint == one.fingerprint
        assert again.addresses == ("/data/a.h5:/raw",)


@pytest.mark.parametrize("broken", [{}, {"sources": [{}]}, {"sources": None}])
def test_what_is_no_record_is_an_error_that_its_reader_expects(broken):
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Computation.from_json({**ONE.to_json(), **broken} if broken else {})


def test_a_version_stands_for_the_program():
    one, other = replace(ONE, version="1"), replace(ONE, version="1", program="1e1e")
    assert one.fingerprint == other.fingerprint
    assert differences(one, other) == []
    assert differences(one, replace(one, version="2")) == [
        "version is '1' there and version is '2' here"
    ]
    assert one.fingerprint != ONE.fingerprint


def test_the_program_is_named_only_where_nothing_else_explains_it():
    other = replace(ONE, program="1e1e", params=params(width=5, mode=None))
    assert differences(ONE, other) == ["params.width is 3 there and 5 here"]


def test_equal_values_are_the_same_wherever_they_lie():
    one = replace(RAW, kind="content")
    moved = replace(one, place="/elsewhere.zarr:/x", name="x")
    assert replace(ONE, sources=(one,)).fingerprint == replace(ONE, sources=(moved,)).fingerprint
    for kind in ("stat", "token"):
        here, there = replace(one, kind=kind), replace(moved, kind=kind)
        assert replace(ONE, sources=(here,)).fingerprint != (
            replace(ONE, sources=(there,)).fingerprint
        )
    changed = replace(ONE, sources=(replace(moved, mark="6a"),))
    assert differences(replace(ONE, sources=(one,)), changed) == [
        "another source: raw in /data/a.h5:/raw there, x in /elsewhere.zarr:/x here"
    ]


def test_the_order_of_sources_counts():
    other = replace(RAW, label="y", name="y")
    one, swapped = replace(ONE, sources=(RAW, other)), replace(ONE, sources=(other, RAW))
    assert one.fingerprint != swapped.fingerprint


def test_what_grows_is_the_same_with_more_items():
    one = replace(ONE, is_growing=True)
    more = replace(one, sources=(replace(RAW, shape=(200, 8)),))
    assert one.fingerprint == more.fingerprint
    assert differences(one, more) == []
    wider = replace(one, sources=(replace(RAW, shape=(200, 9)),))
    assert one.fingerprint != wider.fingerprint
    fixed = replace(more, is_growing=False)
    assert fixed.fingerprint != ONE.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ([1, 2], [1, 3], ["params.x[1] is 2 there and 3 here"]),
        ([1], [1, 2], ["params.x is [1] there and [1, 2] here"]),
        ([1], (1,), ["params.x is [1] there and (1,) here"]),
        (1e-12, 2e-12, ["params.x is 1e-12 there and 2e-12 here"]),
        (0.0, -0.0, ["params.x is 0.0 there and -0.0 here"]),
        ({"a": {"b": 1}, 3: 4}, {"a": {"b": 2}, 3: 5},
         ["params.x['a']['b'] is 1 there and 2 here", "params.x[3] is 4 there and 5 here"]),
        ({"a": 1}, {"b": 1}, ["params.x['a'] is 1 there and not given here",
                              "params.x['b'] is not given there and 1 here"]),
        (1 + 2j, b"\x00", ["params.x is (1+2j) there and b'\\x00' here"]),
        (np.float32(1), np.float64(1), ["params.x is float32(1.0) there and float64(1.0) here"]),
        (np.sin, np.dtype("f4"), ["params.x is numpy.sin there and dtype(float32) here"]),
        (np.longlong(1), None, ["params.x is int64(1) there and None here"]),
    ],
)  # fmt: skip
def test_parameters_are_told_where_they_differ(old, new, words):
    assert differences(replace(ONE, params=params(x=old)), replace(ONE, params=params(x=new))) == (
        words
    )


def test_arrays_are_told_by_their_digests():
    one, other = (replace(ONE, params=params(x=np.full(3, value))) for value in (0.0, 1.0))
    (words,) = differences(one, other)
    assert words.startswith("params.x is float64[3] ")
    assert len(set(words.split())) > 6


def test_what_looks_alike_is_told_as_such():
    parts = [jax.tree_util.Partial(np.sin, a=value) for value in (np.zeros(1), np.zeros(1, "f4"))]
    one, other = (replace(ONE, params=params(x=part)) for part in parts)
    (words,) = differences(one, other)
    assert words.startswith("params.x")


def test_each_type_of_a_parameter_has_words():
    value = [None, True, 1, 1.5, 1j, "a", b"b", (1,), {"k": 2}, np.ones(1), jax.random.key(1),
             np.int8(1), np.dtype("f4"), np.sin, jax.tree_util.Partial(np.sin, 1)]  # fmt: skip
    text = shown(params(x=value)["x"])
    assert text.startswith("[None, True, 1, 1.5, 1j, 'a', b'b', (1,), {'k': 2}, float64[1] ")
    assert " a " not in text


def test_a_fingerprint_stays_from_one_version_to_the_next():
    assert ONE.fingerprint == "2647bbe66ffb9525"
