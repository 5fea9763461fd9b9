"""What every place of results promises, each promise tested once.

A format's test class inherits `ResultContract` and gives the fixtures `place` (nothing in it yet)
and `other_place` (the same place as another process would open it). No two results are ever open
for writing at once, and nobody reads a result that an owner has open and does not share, but where
`reads_live` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from arrays import Array, assert_same_bits, numbers

from jaxstore.errors import BusyError, ExistsError, FormatError, MismatchError, MissingError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.results import (
    DONE,
    FAILED,
    TODO,
    Region,
    ResultGroup,
    ResultPlace,
)

NAME = "raw-peak_000"
UNITS, ROWS = 5, 2
MANIFEST = {"params": {"width": 3, "mode": None, "eps": 1e-12}, "name": "Größe", "shape": [10, 3]}


def array(name: str, shape: tuple[int, ...] = (UNITS * ROWS, 3), dtype: Any = "f4") -> ArraySpec:
    chunks = (ROWS, *shape[1:]) if shape else ()
    dims = tuple(f"{name.replace('/', '-')}-{axis}" for axis in range(len(shape)))
    return ArraySpec(name, shape, chunks, np.dtype(dtype), dims)


def made(place: ResultPlace, *specs: ArraySpec, name: str = NAME, n: int = UNITS) -> ResultGroup:
    return place.create(name, manifest=MANIFEST, specs=specs or [array("amp")], n_units=n)


def values(unit: int) -> Array:
    return numbers((ROWS, 3), seed=unit)


def rows(unit: int) -> Region:
    return (slice(unit * ROWS, (unit + 1) * ROWS),)


def fill(group: ResultGroup, *units: int) -> None:
    """Write and mark units as a process does."""
    for unit in units:
        group.write("amp", (unit * ROWS, 0), values(unit))
        group.mark([unit], DONE)


def regions(unit: int) -> Iterator[tuple[str, Region]]:
    yield "amp", rows(unit)


def assert_filled(group: ResultGroup, *units: int) -> None:
    """These units are done and right, and no others are done."""
    assert np.flatnonzero(group.marks() == DONE).tolist() == sorted(units)
    for unit in units:
        assert_same_bits(group.read("amp", rows(unit), is_strict=True), values(unit))


def content(group: ResultGroup) -> Any:
    arrays = {name: (group.spec(name), group.read(name).tobytes()) for name in group.names()}
    return group.manifest(), group.marks().tolist(), arrays


class ResultContract:
    reads_live = True  # whether a result is read while an owner has it for itself
    notices_loss = True  # whether a chunk that was never written is told from one that was

    @pytest.fixture
    def place(self) -> ResultPlace:
        raise NotImplementedError("give a place without results")

    @pytest.fixture
    def other_place(self, place: ResultPlace) -> ResultPlace:
        raise NotImplementedError("give the same place, as another process opens it")

    def assert_owned(self, group: ResultGroup, place: ResultPlace) -> None:
        """Nobody else becomes owner of a group that has one."""
        with pytest.raises(BusyError):
            place.open(group.name, role="owner")

    # --- making, listing, opening ---

    def test_a_place_that_is_not_there_has_no_results(self, place: ResultPlace) -> None:
        assert place.location
        assert list(place.manifests()) == []
        assert place.groups() == []
        with pytest.raises(MissingError, match=NAME):
            place.open(NAME)
        with pytest.raises(MissingError, match=NAME):
            place.open(NAME, role="owner")
        assert list(place.manifests()) == []

    def test_a_new_result_is_what_was_asked_for(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        specs = [array("b/c", (10,), "i4"), array("amp")]
        group = made(place, *specs)
        for _ in range(2):
            assert group.name == NAME
            assert group.location
            assert group.manifest() == MANIFEST
            assert group.names() == ["amp", "b/c"]
            assert [group.spec("b/c"), group.spec("amp")] == specs
            assert group.marks().dtype == np.uint8
            assert group.marks().tolist() == [TODO] * UNITS
            assert np.isnan(group.read("amp")).all()
            assert not group.read("b/c").any()
            group.close()
            group = other_place.open(NAME)
        group.close()

    def test_a_taken_name_is_refused_and_what_is_there_stays(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 1)
        before = content(group)
        group.close()
        with pytest.raises(ExistsError, match=NAME):
            other_place.create(NAME, manifest={}, specs=[array("other")], n_units=1)
        again = other_place.open(NAME)
        assert content(again) == before
        again.close()

    @pytest.mark.parametrize("name", ["", "..", "a/b"])
    def test_what_is_no_name_is_refused(self, place: ResultPlace, name: str) -> None:
        with pytest.raises(FormatError, match=r"name"):
            made(place, name=name)
        assert list(place.manifests()) == []

    def test_a_result_that_cannot_be_made_leaves_its_name_free(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        with pytest.raises(FormatError, match="cannot be stored"):
            made(place, array("amp"), array("bad", dtype=object))
        assert list(other_place.manifests()) == []
        made(other_place).close()
        assert [name for name, _ in place.manifests()] == [NAME]

    def test_results_are_listed_in_order_of_names(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        for name in ("z_000", "a_001", "a_000", "a-b_000"):
            place.create(name, manifest={"of": name}, specs=[], n_units=1).close()
        wanted = [(name, {"of": name}) for name in sorted(["z_000", "a_001", "a_000", "a-b_000"])]
        assert list(place.manifests()) == wanted
        assert list(other_place.manifests()) == wanted

    def test_neighbours_of_a_result_stay_as_they_are(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        first = made(place, name="a_000")
        fill(first, 0, 3)
        before = content(first)
        first.close()
        second = made(place, name="a_001")
        fill(second, 1)
        second.set_manifest({"x": 1})
        second.close()
        again = other_place.open("a_000")
        assert content(again) == before
        again.close()

    def test_what_is_missing_is_told_with_what_there_is(self, place: ResultPlace) -> None:
        group = made(place)
        for call in (group.spec, group.read):
            with pytest.raises(MissingError, match=r"'amplitude'.*amp"):
                call("amplitude")
        with pytest.raises(MissingError, match="amplitude"):
            group.write("amplitude", (0, 0), values(0))
        group.close()
        with pytest.raises(MissingError, match=f"raw-peak_001.*{NAME}"):
            place.open("raw-peak_001")

    def test_a_manifest_is_replaced_whole_and_may_be_large(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        large = {"program": "x" * 200_000, "state": "complete"}
        group.set_manifest(large)
        assert group.manifest() == large
        group.manifest()["state"] = "changed by a caller"
        assert group.manifest() == large
        group.close()
        assert list(other_place.manifests()) == [(NAME, large)]

    # --- arrays ---

    @pytest.mark.parametrize(
        ("dtype", "shape"),
        [
            *(("float32", (6, 2)), ("bfloat16", (6, 2)), ("bool", (6,)), ("complex64", (6, 1, 2))),
            *(("int64", (6,)), ("float64", ()), ("uint8", (6, 0))),
        ],
    )
    def test_every_dtype_and_shape_comes_back_bit_for_bit(
        self, place: ResultPlace, other_place: ResultPlace, dtype: str, shape: tuple[int, ...]
    ) -> None:
        import ml_dtypes

        kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
        given = numbers(shape, kind)
        chunks = (4, *(max(n, 1) for n in shape[1:])) if shape else ()
        dims = tuple(f"d{axis}" for axis in range(len(shape)))
        group = made(place, ArraySpec("x/y", shape, chunks, kind, dims))
        group.write("x/y", (0,) * len(shape), given)
        assert_same_bits(group.read("x/y"), given)
        group.close()
        again = other_place.open(NAME)
        assert again.spec("x/y").dtype == kind
        assert_same_bits(again.read("x/y"), given)
        again.close()

    def test_what_was_read_is_a_copy(self, place: ResultPlace) -> None:
        group = made(place)
        fill(group, 0, 1)
        group.read("amp")[:] = 0
        assert_filled(group, 0, 1)
        before = group.read("amp")
        group.write("amp", (0, 0), values(9))
        assert_same_bits(before[:ROWS], values(0))
        group.close()

    def test_values_of_another_dtype_are_refused(self, place: ResultPlace) -> None:
        group = made(place)
        with pytest.raises(MismatchError, match=r"'amp' holds float32.*float64"):
            group.write("amp", (0, 0), values(0).astype("f8"))
        group.close()

    def test_an_array_is_added_under_a_free_name_only(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 2)
        with pytest.raises(ExistsError, match="amp"):
            group.create(array("amp", (1,)))
        group.create(array("late/pos", (10,), "i4"))
        group.write("late/pos", (4,), np.arange(2, dtype="i4"))
        group.close()
        again = other_place.open(NAME)
        assert again.names() == ["amp", "late/pos"]
        assert again.read("late/pos")[4:6].tolist() == [0, 1]
        assert_filled(again, 2)
        again.close()

    def test_a_result_grows_and_keeps_what_it_has(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, *range(UNITS))
        group.resize("amp", ((UNITS + 2) * ROWS, 3))
        group.set_marks(np.concatenate([group.marks(), np.zeros(2, np.uint8)]))
        fill(group, UNITS + 1)
        for _ in range(2):
            assert group.spec("amp").shape == ((UNITS + 2) * ROWS, 3)
            assert_filled(group, *range(UNITS), UNITS + 1)
            group.close()
            group = other_place.open(NAME)
        group.close()

    def test_a_chunk_that_was_never_written_is_told(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 0, 1)
        group.close()
        again = other_place.open(NAME)
        assert list(again.damage("amp", (slice(0, 2 * ROWS),))) == []
        if self.notices_loss:
            told = list(again.damage("amp", ()))
            assert len(told) == UNITS - 2
            assert "chunk (2, 0) is absent" in told[0]
            with pytest.raises(FormatError, match=r"'amp'.*chunk \(2, 0\) is absent"):
                again.read("amp", rows(2), is_strict=True)
        again.close()

    # --- marks ---

    def test_units_that_were_marked_are_there_when_it_is_opened_again(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 4, 1)
        group.mark([0, 2], FAILED)
        assert group.marks().tolist() == [FAILED, DONE, FAILED, TODO, DONE]
        group.close()
        again = other_place.open(NAME, role="owner")
        assert again.marks().tolist() == [FAILED, DONE, FAILED, TODO, DONE]
        fill(again, 2)
        assert again.marks().tolist() == [FAILED, DONE, DONE, TODO, DONE]
        again.close()
        last = place.open(NAME)
        assert_filled(last, 1, 2, 4)
        assert last.marks()[0] == FAILED
        last.close()

    def test_marks_are_replaced_and_stay_replaced(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 0, 1, 2)
        group.close()
        again = place.open(NAME, role="owner")
        fill(again, 3)
        again.set_marks(np.array([DONE, TODO, FAILED, DONE, TODO], np.uint8))
        assert again.marks().tolist() == [DONE, TODO, FAILED, DONE, TODO]
        fill(again, 1)
        again.close()
        last = other_place.open(NAME)
        assert last.marks().tolist() == [DONE, DONE, FAILED, DONE, TODO]
        last.close()

    def test_marks_that_were_handed_out_are_a_copy(self, place: ResultPlace) -> None:
        group = made(place)
        group.marks()[:] = DONE
        given = np.full(UNITS, FAILED, np.uint8)
        group.set_marks(given)
        given[:] = DONE
        assert group.marks().tolist() == [FAILED] * UNITS
        group.close()

    def test_threads_write_and_mark_at_once(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        n = 48
        group = made(place, array("amp", (n * ROWS, 3)), n=n)
        at_once = threading.Barrier(8)

        def work(first: int) -> None:
            at_once.wait()
            fill(group, *range(first, n, 8))

        threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_filled(group, *range(n))
        group.close()
        again = other_place.open(NAME)
        assert_filled(again, *range(n))
        again.close()

    # --- roles ---

    def test_a_second_owner_is_refused_until_the_first_lets_go(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        self.assert_owned(group, other_place)
        fill(group, 0)
        group.keep()
        group.close()
        other = other_place.open(NAME, role="owner")
        self.assert_owned(other, place)
        fill(other, 1)
        other.close()
        again = place.open(NAME, role="owner")
        assert_filled(again, 0, 1)
        again.close()

    def test_who_was_closed_writes_no_more(self, place: ResultPlace) -> None:
        group = made(place)
        group.close()
        group.close()
        with pytest.raises(BusyError):
            group.write("amp", (0, 0), values(0))
        with pytest.raises(BusyError):
            group.mark([0], DONE)

    def test_readers_write_nothing(self, place: ResultPlace, other_place: ResultPlace) -> None:
        group = made(place)
        fill(group, 0)
        before = content(group)
        group.close()
        reader = other_place.open(NAME)
        for call in (
            *owners_calls(reader),
            lambda: reader.write("amp", (0, 0), values(7)),
            lambda: reader.mark([1], DONE),
        ):
            with pytest.raises(BusyError):
                call()
        assert content(reader) == before
        reader.close()

    def test_members_do_not_do_what_is_for_the_owner(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        group.share()
        member = other_place.open(NAME, role="member", writer="rank-1")
        for call in owners_calls(member):
            with pytest.raises(BusyError):
                call()
        member.close()
        group.join(regions)
        assert group.manifest() == MANIFEST
        assert group.marks().tolist() == [TODO] * UNITS
        group.close()

    @pytest.mark.parametrize("writer", ["", "a/b", "..", "a b", "ä"])
    def test_a_member_needs_a_plain_name(
        self, place: ResultPlace, other_place: ResultPlace, writer: str
    ) -> None:
        group = made(place)
        group.share()
        with pytest.raises(ValueError, match="letters, digits and hyphens"):
            other_place.open(NAME, role="member", writer=writer)
        group.join(regions)
        group.close()

    def test_a_reader_sees_what_counts(self, place: ResultPlace, other_place: ResultPlace) -> None:
        group = made(place)
        fill(group, 3)
        if self.reads_live:
            reader = other_place.open(NAME)
            assert_filled(reader, 3)
            group.write("amp", (0, 0), values(0))
            assert_filled(reader, 3)
            group.mark([0], DONE)
            assert_filled(reader, 0, 3)
            reader.close()
        group.close()
        reader = other_place.open(NAME)
        assert_filled(reader, *((0, 3) if self.reads_live else (3,)))
        reader.close()

    # --- members ---

    def test_what_members_and_the_owner_did_is_one_result(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 2)
        group.share()
        members = [
            other_place.open(NAME, role="member", writer=writer) for writer in ("rank-1", "rank-2")
        ]
        self.assert_owned(group, other_place)
        fill(members[0], 0)
        fill(members[1], 4)
        members[1].write("amp", (1 * ROWS, 0), values(1))  # and is never marked
        members[1].mark([3], FAILED)
        group.keep()
        for member in members:
            member.close()
        group.join(regions)
        assert_filled(group, 0, 2, 4)
        assert group.marks()[[1, 3]].tolist() == [TODO, FAILED]
        fill(group, 1, 3)
        group.close()
        reader = other_place.open(NAME)
        assert_filled(reader, *range(UNITS))
        reader.close()

    def test_members_see_what_was_there_before_them(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 2)
        group.share()
        member = other_place.open(NAME, role="member", writer="rank-1")
        assert member.name == NAME
        assert member.manifest() == MANIFEST
        assert member.names() == ["amp"]
        assert member.spec("amp") == array("amp")
        assert_filled(member, 2)
        member.close()
        group.join(regions)
        group.close()

    def test_of_two_writers_done_counts_before_failed(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        group.mark([2], FAILED)
        group.share()
        for writer, done, failed in (("a", 0, 1), ("b", 1, 0)):
            member = other_place.open(NAME, role="member", writer=writer)
            fill(member, done)
            member.mark([failed], FAILED)
            if writer == "a":
                fill(member, 2)
            member.close()
        group.join(regions)
        assert_filled(group, 0, 1, 2)
        group.close()

    def test_members_come_more_than_once(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        for turn in range(2):
            group.share()
            member = other_place.open(NAME, role="member", writer="rank-1")
            fill(member, turn)
            member.close()
            group.join(regions)
            assert_filled(group, *range(turn + 1))
        group.set_marks(np.zeros(UNITS, np.uint8))
        assert group.marks().tolist() == [TODO] * UNITS
        group.close()

    def test_what_members_of_an_owner_that_went_left_behind_is_joined(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        fill(group, 4)
        group.share()
        member = other_place.open(NAME, role="member", writer="rank-1")
        fill(member, 1)
        member.mark([0], FAILED)
        member.close()
        group.close()
        again = other_place.open(NAME, role="owner")
        again.join(regions)
        assert_filled(again, 1, 4)
        assert again.marks()[0] == FAILED
        again.close()
        reader = place.open(NAME)
        assert_filled(reader, 1, 4)
        reader.close()

    def test_a_member_that_its_owner_left_marks_nothing_once_another_took_over(
        self, place: ResultPlace, other_place: ResultPlace
    ) -> None:
        group = made(place)
        group.share()
        member = other_place.open(NAME, role="member", writer="rank-1")
        fill(member, 1)
        group.close()
        again = place.open(NAME, role="owner")
        again.join(regions)
        with pytest.raises(BusyError):
            fill(member, 2)
        member.close()
        assert_filled(again, 1)
        again.close()


def owners_calls(group: ResultGroup) -> list[Any]:
    """What only the owner may call."""
    return [
        lambda: group.set_manifest({}),
        lambda: group.create(array("other")),
        lambda: group.resize("amp", (2, 3)),
        lambda: group.set_marks(np.full(UNITS, DONE, np.uint8)),
        lambda: group.share(),
        lambda: group.join(regions),
    ]
