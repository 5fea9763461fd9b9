from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.errors import FormatError, MismatchError
from jaxstore.processing.outputs import (
    Output,
    errors_spec,
    item_spec,
    outputs_of,
    partial_regions,
    partial_specs,
    unit_regions,
    whole_spec,
)
from jaxstore.processing.units import Channels, Units


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, np.dtype(dtype))


def chunks_of(spec, region):
    """The chunks of an array that a region touches, which it must fill whole."""
    found = [()]
    for part, n, c in zip(region, spec.shape, spec.chunks, strict=True):
        assert part.start % c == 0
        assert part.stop % c == 0 or part.stop == n
        found = [
            (*before, i) for before in found for i in range(part.start // c, -(-part.stop // c))
        ]
    return set(found)


@given(
    st.integers(1, 20),
    st.integers(1, 8),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([1, 1 << 20]),
)
def test_units_write_whole_chunks_that_no_other_unit_writes(n_items, unit_items, n, block, width):
    channels = Channels(0, n, min(block, n))
    units = Units(n_items, unit_items, channels.n_blocks)
    outputs = outputs_of({"a": struct(n, width), "b": struct(n)}, {})
    specs = {output.name: item_spec(output, units, channels) for output in outputs}
    seen = set()
    for unit in range(units.n_units):
        for name, region in unit_regions(unit, units, channels, outputs):
            mine = {(name, *chunk) for chunk in chunks_of(specs[name], region)}
            assert not mine & seen
            seen |= mine
        items, spec = units.items(unit), errors_spec(units)
        at = units.block(unit)
        words = (slice(items.start, items.stop), slice(at, at + 1), slice(0, spec.shape[2]))
        mine = {("errors", *chunk) for chunk in chunks_of(spec, words)}
        assert not mine & seen
        seen |= mine


def test_states_of_units_lie_apart():
    states = [struct(), struct(3, 0), struct(2, dtype="int32")]
    specs = partial_specs(states, Units(10, 3))
    assert [spec.shape for spec in specs] == [(4,), (4, 3, 0), (4, 2)]
    regions = dict(partial_regions(2, states))
    for spec in specs:
        assert regions[spec.name][0] == slice(2, 3)
        assert spec.chunks[0] == 1


def test_a_reduction_is_one_chunk():
    (output,) = outputs_of(struct(4, 0), {})
    assert whole_spec(output).chunks == (4, 1)
    assert output.name == "result"


def test_outputs_survive_json():
    out = {"a/b": struct(3), "c": (struct(dtype="bfloat16"), struct(2, 2, dtype="int4"))}
    for output in outputs_of(out, {"c/list_element_1": ["y", "x"]}):
        assert Output.from_json(json.loads(json.dumps(output.to_json()))) == output
    assert output.dims == ("y", "x")
    for broken in (
        {},
        {**output.to_json(), "dtype": "nothing"},
        {**output.to_json(), "shape": None},
    ):
        with pytest.raises(FormatError, match="does not describe an array of a result"):
            Output.from_json(broken)


def test_dims_must_fit():
    with pytest.raises(MismatchError, match=r"dims are given for \['b'\], the outputs are \['a'\]"):
        outputs_of({"a": struct(2)}, {"b": ["x"]})
    with pytest.raises(
        MismatchError, match=r"'a' is \(2,\) for an item, its dims are \('x', 'y'\)"
    ):
        outputs_of({"a": struct(2)}, {"a": ["x", "y"]})
