"""Which chunks are for training, which for validation and which for testing.

Owned here: the split as data. It is made of whole chunks, so that no read serves two splits, and
rows beside one another, which often resemble one another, stay together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

import numpy as np

from jaxstore.errors import FormatError
from jaxstore.loading.shuffle import Rows, permutation, runs
from jaxstore.sources.geometry import ArrayGeometry

_TOLERANCE = 1e-6  # by which fractions may miss 1
_MOST_PARTS = 10**6  # a fraction is taken as the simplest ratio up to this denominator
_MOST = 2**62  # so that a chunk and its rows are int64
_RANGES = (
    ("n_chunks", 0, _MOST),
    ("sample_chunk_size", 1, _MOST),
    ("n_samples", 0, _MOST),
    ("seed", 0, math.inf),
)


class SplitName(StrEnum):
    """The splits; each equals its text, "train", "val" or "test"."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class SplitManifest:
    """The chunks of each split, to be kept beside what was trained on them.

    Args:
        n_chunks: Of the array that was split.
        sample_chunk_size: Rows per chunk; the last chunk may be short.
        n_samples: Rows of the array.
        chunks: Of each split; a split that is left out has none. No chunk is in two of them, and a
            chunk may be in none.
        seed: That the split was made with.

    Raises:
        ValueError: The numbers do not go together.
    """

    n_chunks: int
    sample_chunk_size: int
    n_samples: int
    chunks: Mapping[SplitName, tuple[int, ...]]
    seed: int

    def __post_init__(self) -> None:
        for field, least, most in _RANGES:
            value = _plain(getattr(self, field))
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{field} must be a whole number >= {least}, got {value!r:.50}")
            object.__setattr__(self, field, value)
        wanted = -(-self.n_samples // self.sample_chunk_size)
        if self.n_chunks != wanted:
            raise ValueError(
                f"{self.n_samples} rows in chunks of {self.sample_chunk_size} are {wanted} chunks, "
                f"not {self.n_chunks}"
            )
        given = {
            split_name(split): tuple(_plain(chunk) for chunk in ids)
            for split, ids in self.chunks.items()
        }
        _check_chunks(given, self.n_chunks)
        object.__setattr__(self, "chunks", {split: given.get(split, ()) for split in SplitName})

    def sample_indices(self, split: SplitName | str) -> Rows:
        """The rows of a split, chunk after chunk.

        >>> g = ArrayGeometry("t2m", (10,), (4,), np.dtype("f4"))
        >>> split_by_chunk(g, fractions=(0.5, 0.5)).sample_indices("val")
        array([8, 9])
        """
        chunks = np.asarray(self.chunks[split_name(split)], np.int64)
        starts = chunks * self.sample_chunk_size
        return runs(starts, np.minimum(self.sample_chunk_size, self.n_samples - starts))

    def to_json(self) -> str:
        """This manifest as text, which `from_json` reads."""
        chunks = {str(split): ids for split, ids in self.chunks.items()}
        return json.dumps(
            {
                "n_chunks": self.n_chunks,
                "sample_chunk_size": self.sample_chunk_size,
                "n_samples": self.n_samples,
                "chunks": chunks,
                "seed": self.seed,
            }
        )

    @staticmethod
    def from_json(text: str | bytes) -> SplitManifest:
        """The manifest that `to_json` wrote.

        Raises:
            FormatError: It is something else, or was changed into what no split can be.
        """
        try:
            entries = json.loads(text)
            return _parse(entries)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"This is not the JSON of a SplitManifest: {error}. Write one with "
                "SplitManifest.to_json, or make a new one with split_by_chunk."
            ) from error


def split_by_chunk(
    geometry: ArrayGeometry,
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    contiguous: bool = True,
) -> SplitManifest:
    """Deal the chunks of an array to training, validation and testing, each to one of them.

    Args:
        geometry: Of the array; arrays of the same length may be loaded by the same split.
        fractions: Of the chunks, for train, val and test; the last ones may be left out. Numbers
            of chunks are rounded by largest remainder, and none becomes 0 that need not.
        seed: Matters only if not contiguous.
        contiguous: Neighbouring chunks stay together, as rows that resemble their neighbours need
            it. Else chunks are dealt at random.

    Raises:
        ValueError: The fractions do not sum to 1.

    >>> g = ArrayGeometry("t2m", (95, 3), (10, 3), np.dtype("f4"))
    >>> {str(split): ids for split, ids in split_by_chunk(g).chunks.items()}
    {'train': (0, 1, 2, 3, 4, 5, 6, 7), 'val': (8,), 'test': (9,)}
    """
    n = geometry.n_chunks
    stops = np.cumsum(_dealt(n, fractions)).tolist()
    order = np.arange(n) if contiguous else permutation(n, "split", seed)
    chunks = {
        split: tuple(np.sort(order[start:stop]).tolist())
        for split, start, stop in zip(SplitName, [0, *stops], stops, strict=False)
    }
    return SplitManifest(
        n_chunks=n,
        sample_chunk_size=geometry.sample_chunk_size,
        n_samples=geometry.n_samples,
        chunks=chunks,
        seed=seed,
    )


def split_name(split: SplitName | str) -> SplitName:
    """The split of this name.

    Raises:
        ValueError: There is none.
    """
    try:
        return SplitName(split)
    except ValueError:
        known = ", ".join(repr(str(name)) for name in SplitName)
        raise ValueError(f"There is no split {split!r:.50}; there are {known}") from None


def _dealt(n: int, fractions: Sequence[float]) -> list[int]:
    """How many of n chunks each fraction gets."""
    if not 1 <= len(fractions) <= len(SplitName):
        raise ValueError(
            f"fractions must be 1 to {len(SplitName)} numbers, for train, val and test, "
            f"got {len(fractions)}"
        )
    if not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions must lie between 0 and 1, got {tuple(fractions)}")
    if not math.isclose(sum(fractions), 1, abs_tol=_TOLERANCE):
        raise ValueError(
            f"fractions must sum to 1, but {tuple(fractions)} sum to {sum(fractions):g}. "
            "Give what is left to one of them."
        )
    # As ratios: 0.7 of 5 chunks is 3.5 of them, and not the 3.4999999999999996 of floats.
    exact = [Fraction(fraction).limit_denominator(_MOST_PARTS) for fraction in fractions]
    quotas = [n * part / sum(exact) for part in exact]
    dealt = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(dealt)), key=lambda i: dealt[i] - quotas[i])
    for i in by_remainder[: n - sum(dealt)]:
        dealt[i] += 1
    wanted = [i for i, part in enumerate(fractions) if part > 0]
    for i in wanted if n >= len(wanted) else ():
        if dealt[i] == 0:
            dealt[dealt.index(max(dealt))] -= 1
            dealt[i] = 1
    return dealt


def _check_chunks(chunks: Mapping[SplitName, Sequence[int]], n_chunks: int) -> None:
    """Refuse what is no chunk, and what is given twice."""
    owner: dict[int, SplitName] = {}
    for split, ids in chunks.items():
        for chunk in ids:
            if type(chunk) is not int or not 0 <= chunk < n_chunks:
                raise ValueError(
                    f"{str(split)!r} has chunk {chunk!r:.50}, but the chunks are "
                    f"0 to {n_chunks - 1}"
                )
            if chunk in owner:
                raise ValueError(
                    f"chunk {chunk} is in {str(owner[chunk])!r} and again in {str(split)!r}"
                )
            owner[chunk] = split


def _plain(value: Any) -> Any:
    """A scalar of NumPy as Python's, which JSON takes; else the value."""
    return value.item() if isinstance(value, np.generic) else value


def _parse(entries: Any) -> SplitManifest:
    """A manifest of parsed JSON."""
    wanted = ["n_chunks", "sample_chunk_size", "n_samples", "chunks", "seed"]
    if not isinstance(entries, dict) or sorted(entries) != sorted(wanted):
        found = sorted(entries) if isinstance(entries, dict) else type(entries).__name__
        raise ValueError(f"its entries are {found!s:.200}, not {wanted}")
    chunks = entries["chunks"]
    if not isinstance(chunks, dict) or not all(isinstance(ids, list) for ids in chunks.values()):
        raise ValueError("its chunks are not a list for each split")
    return SplitManifest(**entries)
