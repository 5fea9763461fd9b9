from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxstore.errors import MissingError
from jaxstore.loading.views import Variable, parse_variables, row_spans


@dataclass(frozen=True)
class Case:
    """A split, and the offsets of its views."""

    chunks: list[int]
    chunk_rows: int
    n_rows: int
    offsets: list[int]

    def spans(self) -> list[list[int]]:
        found = row_spans(
            np.array(self.chunks, np.int64),
            chunk_rows=self.chunk_rows,
            n_rows=self.n_rows,
            offsets=self.offsets,
        )
        assert found.dtype == np.int64
        assert found.shape == (len(self.chunks), 2)
        return found.tolist()

    def rows_of(self, chunk: int) -> range:
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.n_rows))

    def plain(self) -> list[list[int]]:
        """The rows that have all their offsets in the split, as a loop over rows finds them."""
        inside = {row for chunk in self.chunks for row in self.rows_of(chunk)}
        return [
            [row for row in self.rows_of(c) if all(row + o in inside for o in self.offsets)]
            for c in self.chunks
        ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    chunk_rows, n_rows = draw(st.integers(1, 6)), draw(st.integers(1, 50))
    chunk = st.integers(0, -(-n_rows // chunk_rows) - 1)
    chunks = draw(st.lists(chunk, unique=True, max_size=20))
    offsets = draw(st.lists(st.integers(-15, 15), max_size=6))
    return Case(chunks, chunk_rows, n_rows, offsets)


@given(cases())
@example(Case([0, 2, 1], 4, 10, [-1, 0, 1]))
@example(Case([1], 4, 10, [3, -3]))
@example(Case([0, 1, 3], 4, 14, [4]))
def test_spans_are_the_rows_whose_views_stay_in_the_split(case: Case) -> None:
    assert [list(range(*span)) for span in case.spans()] == case.plain()


@given(cases())
def test_an_empty_span_lies_at_its_chunk(case: Case) -> None:
    for chunk, (start, stop) in zip(case.chunks, case.spans(), strict=True):
        begin = chunk * case.chunk_rows
        assert begin <= start <= stop <= begin + case.chunk_rows
        assert start < stop or start == begin


def test_a_view_of_the_rows_themselves_has_all_of_the_split() -> None:
    assert Case([3, 0], 4, 14, [0]).spans() == [[12, 14], [0, 4]]


def test_offsets_beyond_the_array_leave_nothing() -> None:
    assert Case([0, 1, 2], 4, 10, [10]).spans() == [[0, 0], [4, 4], [8, 8]]
    assert Case([0, 1, 2], 4, 10, [-10]).spans() == [[0, 0], [4, 4], [8, 8]]


def test_many_chunks_with_a_long_window_are_no_loop_over_rows() -> None:
    n = 200_000
    chunks = np.arange(n)[::-1]
    spans = row_spans(chunks, chunk_rows=100, n_rows=100 * n, offsets=range(-500, 500))
    assert spans[0].tolist() == [100 * (n - 1)] * 2
    assert int((spans[:, 1] - spans[:, 0]).sum()) == 100 * n - 999


@pytest.mark.parametrize(
    ("shift", "window", "offsets"),
    [
        (0, 1, (0,)),
        (0, None, (0,)),
        (2, None, (2,)),
        (-2, 3, (-2, -1, 0)),
        (np.int64(1), np.int32(2), (1, 2)),
    ],
)
def test_a_view_shows_a_window_of_rows_from_its_shift(
    shift: int, window: int | None, offsets: tuple[int, ...]
) -> None:
    variable = Variable("t2m", shift=shift, window=window)
    assert variable.offsets == offsets
    assert all(type(offset) is int for offset in variable.offsets)


def test_equal_views_are_equal_however_they_are_written() -> None:
    assert Variable("t2m", window=None, dtype="f4") == Variable("t2m", dtype=np.float32)
    assert hash(Variable("t2m", window=None)) == hash(Variable("t2m"))
    assert Variable("t2m", dtype=jnp.bfloat16).dtype == np.dtype("bfloat16")


@pytest.mark.parametrize(
    ("error", "keywords", "message"),
    [
        (ValueError, {"window": 0}, "'t2m': window must be >= 1 row, got 0"),
        (ValueError, {"window": -1}, "'t2m': window must be >= 1 row, got -1"),
        (ValueError, {"output": jax.ShapeDtypeStruct((), "f4")}, "'t2m': output .* no transform"),
        (TypeError, {"shift": 0.5}, "float"),
        (TypeError, {"window": 2.0}, "float"),
        (TypeError, {"dtype": "float31"}, "float31"),
    ],
)
def test_a_view_that_cannot_be_is_refused(
    error: type[Exception], keywords: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=message):
        Variable("t2m", **keywords)


def test_all_but_the_name_of_a_view_are_keywords() -> None:
    with pytest.raises(TypeError, match="positional"):
        Variable("t2m", 1)  # type: ignore[misc]


def test_a_transform_may_say_its_output() -> None:
    output = jax.ShapeDtypeStruct((3,), "f4")
    assert Variable("t2m", transform=np.square, output=output).output == output


LAGGED = Variable("t2m", shift=-1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (None, {"t2m": Variable("t2m"), "z/500": Variable("z/500")}),
        (["z/500"], {"z/500": Variable("z/500")}),
        (("z/500", LAGGED), {"z/500": Variable("z/500"), "t2m": LAGGED}),
        ("t2m", {"t2m": Variable("t2m")}),
        (LAGGED, {"t2m": LAGGED}),
        ({"now": "t2m", "before": LAGGED}, {"now": Variable("t2m"), "before": LAGGED}),
    ],
)
def test_variables_are_labelled_in_the_order_given(
    variables: Any, expected: dict[str, Variable]
) -> None:
    found = parse_variables(variables, ["t2m", "z/500"])
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("error", "variables", "message"),
    [
        (ValueError, ["t2m", LAGGED], "'t2m' is given twice.*{'a': 't2m', 'b': Variable.'t2m'"),
        (MissingError, ["t"], "no array 't' to load. There is: 't2m', 'z/500'."),
        (MissingError, {"t2m": "t"}, "no array 't' to load"),
        (ValueError, [], "at least one array. There is: 't2m', 'z/500'."),
        (ValueError, {}, "at least one array"),
        (TypeError, [3], "names or Variable records, got int"),
        (TypeError, {"t2m": None}, "names or Variable records, got NoneType"),
        (TypeError, {3: "t2m"}, "label"),
    ],
)
def test_variables_that_cannot_be_are_refused(
    error: type[Exception], variables: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        parse_variables(variables, ["t2m", "z/500"])


def test_a_store_without_arrays_says_so() -> None:
    with pytest.raises(ValueError, match="There is: nothing."):
        parse_variables(None, [])
