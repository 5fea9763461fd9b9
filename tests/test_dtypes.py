from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from arrays import assert_same_bits, numbers
from contracts import EXTENDED, NATIVE

from jaxstore.errors import FormatError, MismatchError
from jaxstore.stores.dtypes import (
    fill_value,
    from_stored,
    parse_dtype,
    same_dtype,
    stored_dtype,
    to_stored,
)


@pytest.mark.parametrize("name", NATIVE)
def test_native_dtypes_represent_themselves(name: str) -> None:
    assert stored_dtype(name) == np.dtype(name)
    assert parse_dtype(name) == np.dtype(name)


@pytest.mark.parametrize("name", EXTENDED)
def test_other_dtypes_are_kept_as_their_bits(name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name))
    assert stored_dtype(kind) == np.dtype(f"u{kind.itemsize}")
    assert parse_dtype(kind.name) == kind


@pytest.mark.parametrize("name", [*NATIVE, *EXTENDED])
def test_bits_go_both_ways_without_a_copy(name: str) -> None:
    values = numbers((3, 4), getattr(ml_dtypes, name, name)).copy()
    stored = to_stored(values)
    again = from_stored(stored, values.dtype)
    assert stored.dtype == stored_dtype(values.dtype)
    assert np.shares_memory(stored, values)
    assert np.shares_memory(again, values)
    assert_same_bits(again, values)


def test_byte_order_is_changed_where_it_has_to_be() -> None:
    values = np.arange(3, dtype=">i4")
    assert stored_dtype(values.dtype).isnative
    assert_same_bits(to_stored(values), np.arange(3, dtype="int32"))
    assert_same_bits(from_stored(values, "int32"), np.arange(3, dtype="int32"))


@pytest.mark.parametrize("name", [*NATIVE, *EXTENDED])
def test_the_fill_value_is_nan_where_there_is_one(name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name, name))
    fill = fill_value(kind)
    assert fill.dtype == stored_dtype(kind)
    value = from_stored(np.array([fill]), kind)
    if kind.kind in "fc" or kind.name.startswith(("float", "bfloat")):
        assert np.isnan(value).all()
    else:
        assert not value.astype(bool).any()


def test_a_float_without_nan_is_filled_with_zero() -> None:
    assert fill_value(ml_dtypes.float4_e2m1fn) == 0


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (object, "attributes"),
        ("U3", "integers"),
        ("S3", "integers"),
        ("M8[s]", r"view\('int64'\)"),
        ("m8[s]", r"view\('int64'\)"),
        ("i4,f4", "each field"),
        ("V4", "each field"),
        ("nonsense", "arrays of numbers"),
        (jax.random.key(0).dtype, r"key_data\(key\)"),
    ],
)
def test_what_has_no_bits_is_refused_with_advice(dtype: Any, advice: str) -> None:
    with pytest.raises(FormatError, match=rf"cannot be stored\. .*{advice}"):
        stored_dtype(dtype)


@pytest.mark.parametrize("name", ["O", "<f4", "i4,f4", "key<fry>", "finfo", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="is not one that jaxstore writes"):
        parse_dtype(name)


def test_values_of_another_dtype_are_told_apart_whatever_their_byte_order() -> None:
    same_dtype("x", np.zeros(2, ">f4"), "float32")
    with pytest.raises(MismatchError, match=r"'x' holds bfloat16, .* are uint16"):
        same_dtype("x", np.zeros(2, "uint16"), ml_dtypes.bfloat16)
