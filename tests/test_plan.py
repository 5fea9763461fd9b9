from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.loading.plan import ReadPlan, build_read_plan, dedup_ratio
from jaxstore.sources.geometry import ArrayGeometry


def geometry_of(chunk: int, n_samples: int = 1000) -> ArrayGeometry:
    return ArrayGeometry("x", (n_samples, 4), (chunk, 4), np.dtype("f4"))


@dataclass(frozen=True)
class Request:
    rows: list[int]
    geometries: dict[str, ArrayGeometry]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    n = draw(st.integers(1, 60))
    chunks = draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 13), max_size=3))
    rows = draw(st.lists(st.integers(0, n - 1), max_size=40))
    return Request(rows, {name: geometry_of(chunk, n) for name, chunk in chunks.items()})


def gathered(plan: ReadPlan, name: str) -> list[int]:
    """The rows that a plan gives for a variable, from reads of that variable alone."""
    gather = plan.gathers[name]
    reads = [plan.reads[i] for i in gather.read]
    assert all(read.name == name for read in reads)
    return [read.rows[i] for read, i in zip(reads, gather.within.tolist(), strict=True)]


def plain_reads(request: Request) -> list[tuple[str, int]]:
    """The reads that rows need, as a loop over rows finds them."""
    found: list[tuple[str, int]] = []
    for row in request.rows:
        for name, geometry in request.geometries.items():
            if (name, geometry.chunk_of(row)) not in found:
                found.append((name, geometry.chunk_of(row)))
    return found


@given(requests())
def test_the_gathers_give_the_rows_that_were_asked_for(request_: Request) -> None:
    plan = build_read_plan(request_.rows, request_.geometries)
    assert list(plan.gathers) == list(request_.geometries)
    for name in request_.geometries:
        assert gathered(plan, name) == request_.rows


@given(requests())
def test_each_chunk_is_read_once_as_soon_as_it_is_needed(request_: Request) -> None:
    plan = build_read_plan(request_.rows, request_.geometries)
    assert [(read.name, read.chunk) for read in plan.reads] == plain_reads(request_)
    assert plan.n_reads == len(plan.reads)
    for read in plan.reads:
        assert read.rows == request_.geometries[read.name].samples_in_chunk(read.chunk)


@given(requests())
def test_the_ratio_is_rows_by_reads(request_: Request) -> None:
    plan = build_read_plan(request_.rows, request_.geometries)
    n_reads = len(plain_reads(request_))
    expected = len(request_.rows) * len(request_.geometries) / n_reads if n_reads else 1.0
    assert dedup_ratio(plan) == expected >= 1.0


def test_rows_of_one_chunk_are_one_read() -> None:
    plan = build_read_plan(range(50), {"t2m": geometry_of(100)})
    assert plan.n_reads == 1
    assert len(plan.gathers["t2m"]) == 50
    assert dedup_ratio(plan) == 50.0


def test_chunks_of_one_row_share_nothing() -> None:
    assert dedup_ratio(build_read_plan([0, 5, 9, 100], {"t2m": geometry_of(1)})) == 1.0


def test_reads_are_ordered_by_chunk_and_then_by_variable() -> None:
    geometries = {"b": geometry_of(10), "a": geometry_of(10), "fine": geometry_of(5)}
    plan = build_read_plan(np.array([27, 3, 8], np.uint16), geometries)
    assert [(read.name, read.chunk) for read in plan.reads] == [
        *(("b", 2), ("a", 2), ("fine", 5)),
        *(("b", 0), ("a", 0), ("fine", 0), ("fine", 1)),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 12], "'short' has rows 0 to 11, not 12"),
        ([5, -1], "'long' has rows 0 to 19, not -1"),
        (np.array([1, 2**64 - 1], np.uint64), "not 18446744073709551615"),
    ],
)
def test_a_row_that_is_not_there_is_named(rows: list[int], message: str) -> None:
    geometries = {"long": geometry_of(5, 20), "short": geometry_of(5, 12)}
    with pytest.raises(IndexError, match=message):
        build_read_plan(rows, geometries)


@pytest.mark.parametrize("rows", [[1.0], [True, False], [[1]], np.int64(1), ["1"]])
def test_what_is_no_list_of_rows_is_refused(rows: list[int]) -> None:
    with pytest.raises(TypeError, match="must be a list of whole numbers"):
        build_read_plan(rows, {"t2m": geometry_of(10)})


@pytest.mark.parametrize("rows", [[], np.array([], np.int32)])
def test_no_rows_need_no_reads(rows: list[int]) -> None:
    plan = build_read_plan(rows, {"t2m": geometry_of(10)})
    assert plan.reads == ()
    assert len(plan.gathers["t2m"]) == 0
    assert plan.gathers["t2m"].read.dtype == np.int64
