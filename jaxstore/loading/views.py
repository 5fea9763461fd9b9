"""What a row of a batch shows: which array, which of its rows, and as what.

Owned here: lagged views and windows of rows as data, and which rows of a split can have them.
Reading and stacking is the business of `blocks`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64
from numpy.typing import DTypeLike

from jaxstore.errors import MissingError
from jaxstore.sources.geometry import Array

Spans = Int64[np.ndarray, "chunks 2"]


@dataclass(frozen=True, slots=True)
class Variable:
    """How one stored array appears in a batch: row r shows its rows r + shift and following.

    Args:
        name: Of the array in the store.
        shift: Rows between the row of the batch and the first one shown; below 0 is the past.
        window: Rows shown, stacked on a new axis behind the first if more than one; None is 1.
        dtype: That the values are cast to; None keeps the stored one.
        axis: The sample axis; None is what the source says, the first one if it says nothing.
        transform: Makes new rows of the rows of a chunk, (rows, *shape) to (rows, *new shape). It
            must treat each row alone. It is called once per chunk, and its result kept.
        output: Shape and dtype of one row after `transform`; None finds them out by a try on a row
            of zeros.

    Raises:
        ValueError: The window has no row, or `output` is given without `transform`.

    >>> Variable("t2m", shift=-1, window=3).offsets
    (-1, 0, 1)
    """

    name: str
    _: KW_ONLY
    shift: int = 0
    window: int | None = 1
    dtype: DTypeLike | None = None
    axis: int | None = None
    transform: Callable[[Array], Array] | None = None
    output: jax.ShapeDtypeStruct | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"{self.name!r}: window must be >= 1 row, got {self.window}")
        if self.output is not None and self.transform is None:
            raise ValueError(
                f"{self.name!r}: output says what a transform makes of a row, but there is no "
                "transform. To cast values give dtype."
            )
        object.__setattr__(self, "shift", operator.index(self.shift))
        object.__setattr__(self, "window", operator.index(self.window or 1))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def offsets(self) -> tuple[int, ...]:
        """Rows shown, counted from the row of the batch."""
        return tuple(range(self.shift, self.shift + (self.window or 1)))


Variables = str | Variable | Iterable[str | Variable] | Mapping[str, str | Variable]


def parse_variables(variables: Variables | None, names: Sequence[str]) -> dict[str, Variable]:
    """Variables by their label in a batch.

    Args:
        variables: One or several, which get their names as labels; or a mapping from label to
            variable, for two views of one array. None is every array.
        names: Of the arrays that there are.

    Raises:
        MissingError: There is no array of this name.
        ValueError: Two have the same label, or there is none at all.

    >>> found = parse_variables({"now": "t2m", "next": Variable("t2m", shift=1)}, ["t2m", "z"])
    >>> {label: variable.offsets for label, variable in found.items()}
    {'now': (0,), 'next': (1,)}
    """
    if isinstance(variables, Mapping):
        given = [(label, _variable(variable)) for label, variable in variables.items()]
    else:
        if variables is None:
            variables = names
        elif isinstance(variables, str | Variable):
            variables = [variables]
        parsed = [_variable(variable) for variable in variables]
        given = [(variable.name, variable) for variable in parsed]
    there_is = f"There is: {', '.join(map(repr, names)) or 'nothing'}."
    if not given:
        raise ValueError(f"variables must name at least one array. {there_is}")
    found: dict[str, Variable] = {}
    for label, variable in given:
        if not isinstance(label, str):
            raise TypeError(f"a label must be text, got {label!r:.50}")
        if variable.name not in names:
            raise MissingError(f"There is no array {variable.name!r} to load. {there_is}")
        if label in found:
            raise ValueError(
                f"{label!r} is given twice. For two views of one array give a mapping, such as "
                f"{{'a': {label!r}, 'b': Variable({label!r}, shift=1)}}."
            )
        found[label] = variable
    return found


def row_spans(
    chunks: Int64[np.ndarray, " chunks"], *, chunk_rows: int, n_rows: int, offsets: Iterable[int]
) -> Spans:
    """The rows of each chunk that have all their offsets in the array and in the same split.

    They are one interval per chunk, half-open; without such rows it is empty.

    Args:
        chunks: Of the split, in any order.
        chunk_rows: Rows per chunk; the last chunk may be short.
        n_rows: Of the array.
        offsets: Of all views together.

    >>> row_spans(np.array([0, 1, 3]), chunk_rows=4, n_rows=14, offsets=(0, 1)).tolist()
    [[0, 4], [4, 7], [12, 13]]
    """
    begin = chunks * chunk_rows
    spans = np.stack([begin, np.minimum(begin + chunk_rows, n_rows)], axis=1)
    firsts, lasts = _stretches(np.unique(chunks))
    lowest, end = firsts * chunk_rows, np.minimum((lasts + 1) * chunk_rows, n_rows)
    low, high = _stretches(np.unique(np.fromiter(offsets, np.int64)))
    for lo, hi in zip(low.tolist(), high.tolist(), strict=True):
        # Rows of a chunk, shifted by lo, lie in at most two chunks, q further on and the next.
        # Are both in the split, they are in the same stretch; so there is one candidate. If it
        # holds neither, it ends before the first of the rows; and if there is none, at is -1,
        # and the stretch which that indexes begins behind the last of them.
        at = np.searchsorted(firsts, chunks + lo // chunk_rows + 1, "right") - 1
        spans[:, 0] = np.maximum(spans[:, 0], lowest[at] - lo)
        spans[:, 1] = np.minimum(spans[:, 1], end[at] - hi)
    is_empty = spans[:, 0] >= spans[:, 1]
    spans[is_empty] = begin[is_empty, None]
    return spans


def _variable(given: Any) -> Variable:
    """A variable, of itself or its name."""
    if not isinstance(given, str | Variable):
        raise TypeError(f"variables must be names or Variable records, got {type(given).__name__}")
    return Variable(given) if isinstance(given, str) else given


def _stretches(
    ids: Int64[np.ndarray, " ids"],
) -> tuple[Int64[np.ndarray, " stretches"], Int64[np.ndarray, " stretches"]]:
    """First and last of each stretch of consecutive numbers, which are sorted and distinct."""
    is_first = np.diff(ids, prepend=ids[:1] - 2) != 1
    is_last = np.diff(ids, append=ids[-1:] + 2) != 1
    return ids[is_first], ids[is_last]
