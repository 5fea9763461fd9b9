"""What every store promises about growing; a part of `contracts.StoreContract`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from arrays import Reopen, assert_same_bits, numbers, ramp, spec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jaxstore.stores.base import Store

FRESH_NAMES = (f"property_{i}" for i in itertools.count())


class GrowingContract:
    def shape_after_write(
        self, shape: tuple[int, ...], start: tuple[int, ...], extent: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Of an array of this shape, once values of this extent were written at an offset."""
        return shape

    @pytest.mark.parametrize("axis", [0, 1])
    def test_an_array_grows_along_the_first_two_axes(
        self, store: Store, reopen: Reopen, axis: int
    ) -> None:
        values = np.moveaxis(numbers((11, 2, 3), "int32"), 0, axis)
        shape = [n if i != axis else 0 for i, n in enumerate(values.shape)]
        chunks = tuple(4 if i == axis else n for i, n in enumerate(values.shape))
        store.create(spec("x", tuple(shape), chunks, "int32"))
        for first in range(0, 11, 4):
            part = values[(slice(None),) * axis + (slice(first, first + 4),)]
            start = [first if i == axis else 0 for i in range(3)]
            store.write("x", start, part)
            shape[axis] += part.shape[axis]
            store.resize("x", shape)
        assert_same_bits(reopen().read("x"), values)

    def test_growing_keeps_what_was_written_beyond(self, store: Store, reopen: Reopen) -> None:
        values = numbers((2, 12), "int32")
        store.create(spec("x", (2, 0), (2, 4), "int32"))
        store.write("x", (0, 8), values[:, 8:])
        store.write("x", (0, 0), values[:, :8])
        assert store.spec("x").shape == (2, 0)
        assert store.read("x").shape == (2, 0)
        store.resize("x", (2, 6))
        assert_same_bits(store.read("x"), values[:, :6])
        store.resize("x", (2, 12))
        assert_same_bits(store.read("x"), values)
        assert_same_bits(reopen().read("x"), values)

    def test_growing_over_nothing_shows_fill_values(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (2, 3), (2, 4)))
        store.write("x", (0, 0), ramp((2, 3)))
        store.resize("x", (5, 9))
        found = reopen().read("x")
        assert_same_bits(found[:2, :3], ramp((2, 3)))
        assert np.isnan(found[2:]).all()
        assert np.isnan(found[:2, 3:]).all()

    def test_an_array_can_be_cut_back_and_written_on(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (1, 12), (1, 4)))
        store.write("x", (0, 0), ramp((1, 12)))
        store.resize("x", (1, 4))
        assert_same_bits(store.read("x"), ramp((1, 12))[:, :4])
        store.write("x", (0, 4), -ramp((1, 4)))
        store.resize("x", (1, 8))
        wanted = np.concatenate([ramp((1, 12))[:, :4], -ramp((1, 4))], axis=1)
        assert_same_bits(reopen().read("x"), wanted)

    @settings(
        deadline=None,
        max_examples=10,
        phases=[Phase.explicit, Phase.generate],  # to shrink on a disk takes minutes
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(data=st.data())
    def test_any_writes_equal_the_same_on_a_numpy_array(
        self, store: Store, data: st.DataObject
    ) -> None:
        rank = data.draw(st.integers(1, 3), label="rank")
        shape = data.draw(st.tuples(*[st.integers(0, 9)] * rank), label="shape")
        chunks = data.draw(st.tuples(*[st.integers(1, 5)] * rank), label="chunks")
        name = next(FRESH_NAMES)
        store.create(spec(name, shape, chunks, "float64"))
        model = np.full((40,) * rank, np.nan)  # more than writes and growth below can reach
        for seed in range(data.draw(st.integers(1, 5), label="writes")):
            start = data.draw(st.tuples(*[st.integers(0, 11)] * rank), label="start")
            extent = data.draw(st.tuples(*[st.integers(0, 6)] * rank), label="extent")
            values = np.random.default_rng(seed).normal(size=extent)
            model[tuple(slice(a, a + n) for a, n in zip(start, extent, strict=True))] = values
            store.write(name, start, values)
            shape = self.shape_after_write(shape, start, extent)
            if data.draw(st.booleans(), label="grows"):
                more = data.draw(st.tuples(*[st.integers(0, 4)] * rank), label="more")
                shape = tuple(a + n for a, n in zip(shape, more, strict=True))
                store.resize(name, shape)
            assert_same_bits(
                store.read(name), np.ascontiguousarray(model[tuple(slice(n) for n in shape)])
            )
        grown = tuple(max(n, 17) for n in shape)
        store.resize(name, grown)
        assert_same_bits(
            store.read(name), np.ascontiguousarray(model[tuple(slice(n) for n in grown)])
        )
