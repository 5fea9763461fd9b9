"""What every store promises, each promise tested once.

A format's test class inherits `StoreContract` and gives the fixture `store` (fresh, empty,
writable) and, where the format can, the fixture `reopen`: a call that returns a fresh, read-only
store on the same data. After `reopen()` a test no longer uses `store`, so it may be closed.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from arrays import Array, Reopen, assert_same_bits, numbers, ramp, spec
from contract_growing import GrowingContract
from contract_records import RecordContract

from jaxstore.errors import ExistsError, FormatError, MismatchError, MissingError
from jaxstore.stores.base import Store

NATIVE = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
EXTENDED = [
    *("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e8m0fnu"),
    *("int4", "uint4", "int2"),
]
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in (*NATIVE, *EXTENDED)}


def is_fill(values: Array) -> bool:
    """Only NaN where the dtype has one, else only zero."""
    try:
        return bool(np.isnan(values).all()) or not values.astype("float64").any()
    except TypeError:
        return not values.any()


class StoreContract(GrowingContract, RecordContract):
    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError("give a fresh, empty, writable store")

    @pytest.fixture
    def reopen(self, store: Store) -> Reopen:
        return lambda: store

    # --- what is created ---

    def test_it_is_a_store_with_a_location(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert isinstance(store.location, str)
        assert store.location

    def test_a_fresh_store_is_empty(self, store: Store) -> None:
        assert store.names() == []
        assert store.attrs() == {}
        assert store.committed() is None

    def test_a_spec_comes_back_as_it_was_given(self, store: Store, reopen: Reopen) -> None:
        given_spec = spec("a/theta", (2, 5, 3), (2, 4, 3), "float64", unit="m")
        store.create(given_spec)
        found = reopen().spec("a/theta")
        assert found == given_spec
        assert found.shape == (2, 5, 3)
        assert all(type(n) is int for n in (*found.shape, *found.chunks))

    # One store for all dtypes, as making one costs more than all that is done with it.
    def test_every_dtype_comes_back_bit_for_bit(self, store: Store, reopen: Reopen) -> None:
        wanted = {name: numbers((2, 7), dtype) for name, dtype in DTYPES.items()}
        for name, values in wanted.items():
            store.create(spec(name, (2, 7), (2, 3), values.dtype))
            store.write(name, (0, 0), values)
            assert_same_bits(store.read(name), values)
        again = reopen()
        for name, values in wanted.items():
            assert again.spec(name).dtype == values.dtype
            assert_same_bits(again.read(name), values)

    def test_what_was_never_written_is_nan_or_zero(self, store: Store, reopen: Reopen) -> None:
        for name, dtype in DTYPES.items():
            store.create(spec(name, (2, 7), (2, 3), dtype))
            store.write(name, (0, 3), ramp((2, 2)).astype(dtype))
        again = reopen()
        for name, dtype in DTYPES.items():
            found = again.read(name)
            assert found.dtype == dtype
            for unwritten in (found[:, :3], found[:, 5:]):
                assert is_fill(unwritten), name
            if dtype.kind in "fc" or name.startswith(("bfloat", "float8")):
                assert np.isnan(found[0, 0]), name

    def test_other_dtypes_are_refused(self, store: Store) -> None:
        for dtype in (object, "U3", "S3", "M8[s]", "m8[s]", "i4,f4"):
            with pytest.raises(FormatError, match="cannot be stored"):
                store.create(spec("x", (2,), (2,), dtype))
        assert store.names() == []

    def test_a_taken_name_is_refused(self, store: Store) -> None:
        store.create(spec("a/x", (1, 2), (1, 2)))
        store.write("a/x", (0, 0), ramp((1, 2)))
        for taken in ("a/x", "a"):
            with pytest.raises(ExistsError, match=f"'{taken}'"):
                store.create(spec(taken, (3, 3), (1, 1)))
        assert_same_bits(store.read("a/x"), ramp((1, 2)))

    def test_an_array_cannot_be_a_group(self, store: Store) -> None:
        store.create(spec("a", (1, 2), (1, 2)))
        with pytest.raises(ExistsError, match="'a'"):
            store.create(spec("a/x", (1, 2), (1, 2)))
        assert store.names() == ["a"]

    def test_names_are_sorted_and_reach_into_nested_groups(
        self, store: Store, reopen: Reopen
    ) -> None:
        for name in ("z", "a/b/c/d", "a/b/x", "a.b", "a/y"):
            store.create(spec(name, (1, 2), (1, 2)))
        wanted = sorted(["z", "a/b/c/d", "a/b/x", "a.b", "a/y"])
        assert store.names() == wanted
        assert reopen().names() == wanted

    def test_a_missing_name_lists_those_there_are(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("samples/theta", (1, 2), (1, 2)))
        store.create(spec("samples/phi", (1, 2), (1, 2)))
        for wrong in ("samples/thet", "samples"):
            with pytest.raises(MissingError, match=r"samples/phi.*samples/theta") as caught:
                store.spec(wrong)
            assert f"'{wrong}'" in str(caught.value)
        with pytest.raises(MissingError, match="nothing"):
            store.write("nothing", (0,), ramp((1,)))
        with pytest.raises(MissingError, match="nothing"):
            store.resize("nothing", (1,))
        again = reopen()
        with pytest.raises(MissingError, match="samples/theta"):
            again.read("nothing")
        with pytest.raises(MissingError, match="nothing"):
            again.attrs("nothing")

    # --- writing and reading ---

    @pytest.mark.parametrize("start", [(0, 0, 0), (0, 4, 0), (1, 3, 1)])
    def test_a_region_lands_where_it_was_put(
        self, store: Store, reopen: Reopen, start: tuple[int, int, int]
    ) -> None:
        wanted = np.full((2, 9, 3), np.nan, "float32")
        values = ramp(tuple(n - s for n, s in zip(wanted.shape, start, strict=True)))
        wanted[tuple(slice(s, None) for s in start)] = values
        store.create(spec("x", wanted.shape, (2, 4, 3)))
        store.write("x", start, values)
        assert_same_bits(reopen().read("x"), wanted)

    @pytest.mark.parametrize(
        ("shape", "chunks"),
        [((), ()), ((5,), (2,)), ((3, 8), (3, 4)), ((2, 3, 2, 2, 3, 2), (1, 2, 2, 1, 2, 2))],
    )
    def test_any_rank_is_stored(
        self, store: Store, reopen: Reopen, shape: tuple[int, ...], chunks: tuple[int, ...]
    ) -> None:
        values = numbers(shape, "float64")
        store.create(spec("x", shape, chunks, "float64"))
        store.write("x", (0,) * len(shape), values)
        assert_same_bits(reopen().read("x"), values)

    def test_partial_chunks_are_merged(self, store: Store, reopen: Reopen) -> None:
        wanted = numbers((2, 10), "int32")
        store.create(spec("x", (2, 10), (2, 8), "int32"))
        for first, last in ((3, 5), (0, 3), (5, 9), (9, 10)):
            store.write("x", (0, first), wanted[:, first:last])
        for chain in (1, 0):  # rewriting one chain keeps the other
            store.write("x", (chain, 2), wanted[chain : chain + 1, 2:4])
        assert_same_bits(reopen().read("x"), wanted)

    def test_chunks_can_be_written_again(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (1, 8), (1, 4)))
        store.write("x", (0, 0), ramp((1, 8)))
        store.write("x", (0, 4), -ramp((1, 4)))
        wanted = np.concatenate([ramp((1, 8))[:, :4], -ramp((1, 4))], axis=1)
        assert_same_bits(reopen().read("x"), wanted)

    def test_half_open_regions_are_read(self, store: Store, reopen: Reopen) -> None:
        values = ramp((4, 9, 3), "int64")
        store.create(spec("x", values.shape, (2, 4, 3), "int64"))
        store.write("x", (0, 0, 0), values)
        again = reopen()
        regions: list[tuple[slice, ...]] = [
            (),
            (slice(1, 3),),
            (slice(0, 4), slice(3, 7)),
            (slice(None), slice(None), slice(1, 2)),
            (slice(2, 2), slice(0, 9)),
            (slice(None, 2), slice(4, None)),
            (slice(0, 4), slice(5, 100)),
        ]
        for region in regions:
            assert_same_bits(again.read("x", region), values[region])

    def test_what_was_read_is_a_copy(self, store: Store) -> None:
        store.create(spec("x", (1, 4), (1, 2)))
        store.write("x", (0, 0), ramp((1, 4)))
        before = store.read("x")
        store.write("x", (0, 0), -ramp((1, 4)))
        store.resize("x", (1, 4000))
        assert_same_bits(before, ramp((1, 4)))
        before[:] = 0
        assert_same_bits(store.read("x", (slice(0, 1), slice(0, 4))), -ramp((1, 4)))

    def test_any_memory_layout_of_the_values_will_do(self, store: Store, reopen: Reopen) -> None:
        base = numbers((6, 8), "int32")
        layouts = {
            "transposed": base.T,
            "strided": base[::2, ::2],
            "reversed": base[::-1, ::-1],
            "fortran": np.asfortranarray(base),
            "broadcast": np.broadcast_to(base[0], (3, 8)),
            "big_endian": base.astype(">i4"),
        }
        for name, values in layouts.items():
            store.create(spec(name, values.shape, (2, 3), "int32"))
            store.write(name, (0, 0), values)
        again = reopen()
        for name, values in layouts.items():
            assert_same_bits(again.read(name), np.ascontiguousarray(values.astype("int32")))

    def test_read_only_values_are_left_as_they_are(self, store: Store) -> None:
        values = ramp((1, 4))
        values.flags.writeable = False
        store.create(spec("x", (1, 4), (1, 4)))
        store.write("x", (0, 0), values)
        assert_same_bits(store.read("x"), values)

    def test_writing_nothing_changes_nothing(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (2, 4), (2, 4)))
        store.write("x", (0, 0), ramp((2, 4)))
        store.write("x", (0, 2), np.zeros((2, 0), "float32"))
        store.write("x", (0, 400), np.zeros((2, 0), "float32"))
        again = reopen()
        assert again.spec("x").shape == (2, 4)
        assert_same_bits(again.read("x"), ramp((2, 4)))

    def test_an_array_may_begin_empty(self, store: Store, reopen: Reopen) -> None:
        store.create(spec("x", (4, 0, 3), (4, 2, 3)))
        again = reopen()
        assert again.spec("x").shape == (4, 0, 3)
        assert again.read("x").shape == (4, 0, 3)

    def test_values_of_another_dtype_are_refused(self, store: Store) -> None:
        store.create(spec("x", (1, 4), (1, 4)))
        with pytest.raises(MismatchError, match=r"'x' holds float32.*float64"):
            store.write("x", (0, 0), ramp((1, 4), "float64"))
