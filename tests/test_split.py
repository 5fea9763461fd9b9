from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxstore.errors import FormatError
from jaxstore.loading.split import SplitManifest, SplitName, split_by_chunk
from jaxstore.sources.geometry import ArrayGeometry

FRACTIONS = st.lists(st.integers(0, 20), min_size=1, max_size=3).filter(any)


def geometry_of(n_samples: int, chunk: int = 1) -> ArrayGeometry:
    return ArrayGeometry("x", (n_samples, 2), (chunk, 2), np.dtype("f4"))


def sizes(manifest: SplitManifest) -> list[int]:
    return [len(manifest.chunks[split]) for split in SplitName]


def manifest_of(**changed: Any) -> SplitManifest:
    entries: dict[str, Any] = {
        "n_chunks": 3,
        "sample_chunk_size": 4,
        "n_samples": 10,
        "chunks": {"train": [0, 2], "val": [1]},
        "seed": 0,
    }
    return SplitManifest(**{**entries, **changed})


@given(st.integers(0, 300), st.integers(1, 9), FRACTIONS, st.integers(0, 5))
def test_every_chunk_and_every_row_is_in_one_split(
    n: int, chunk: int, parts: list[int], seed: int
) -> None:
    geometry = geometry_of(n, chunk)
    fractions = [part / sum(parts) for part in parts]
    contiguous = seed % 2 == 0
    manifest = split_by_chunk(geometry, fractions=fractions, seed=seed, contiguous=contiguous)
    dealt = [c for split in SplitName for c in manifest.chunks[split]]
    assert sorted(dealt) == list(range(geometry.n_chunks))
    assert dealt == sorted(dealt) or not contiguous
    rows = [manifest.sample_indices(split) for split in SplitName]
    assert sorted(np.concatenate(rows).tolist()) == list(range(n))
    for split, found in zip(SplitName, rows, strict=True):
        chunks = manifest.chunks[split]
        assert found.dtype == np.int64
        assert found.tolist() == [r for c in chunks for r in geometry.samples_in_chunk(c)]


@given(st.integers(0, 300), FRACTIONS)
def test_no_split_misses_its_share_by_a_chunk_nor_is_empty_without_need(
    n: int, parts: list[int]
) -> None:
    fractions = [part / sum(parts) for part in parts]
    found = sizes(split_by_chunk(geometry_of(n), fractions=fractions))
    shares = [n * part / sum(parts) for part in parts] + [0] * (3 - len(parts))
    wanted = [part > 0 for part in parts]
    if n >= sum(wanted):
        assert all(found[i] for i, is_wanted in enumerate(wanted) if is_wanted)
    if all(share >= 1 for share in shares if share):
        assert all(abs(a - b) < 1 for a, b in zip(found, shares, strict=True))
    assert all(not a for a, share in zip(found, shares, strict=True) if not share)


@pytest.mark.parametrize(
    ("n", "fractions", "expected"),
    [
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (100, (0.29, 0.57, 0.14), [29, 57, 14]),
        (5, (0.7, 0.2, 0.1), [3, 1, 1]),
        (5, (0.7, 0.3), [4, 1, 0]),  # 3.5 and 1.5: the first of equal remainders
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),
        (2, (0.8, 0.1, 0.1), [2, 0, 0]),
        (1, (0.2, 0.5, 0.3), [0, 1, 0]),
        (7, (1,), [7, 0, 0]),
        (7, (0, 0, 1.0), [0, 0, 7]),
        (0, (0.5, 0.5), [0, 0, 0]),
        (9, (1 / 3, 1 / 3, 1 / 3), [3, 3, 3]),
    ],
)
def test_numbers_of_chunks_are_rounded_by_largest_remainder(
    n: int, fractions: tuple[float, ...], expected: list[int]
) -> None:
    assert sizes(split_by_chunk(geometry_of(n), fractions=fractions)) == expected


def test_chunks_are_dealt_at_random_by_seed_and_pinned() -> None:
    def dealt(seed: int) -> list[tuple[int, ...]]:
        manifest = split_by_chunk(
            geometry_of(10), fractions=(0.5, 0.3, 0.2), seed=seed, contiguous=False
        )
        return [manifest.chunks[split] for split in SplitName]

    # Pinned: a manifest that is made again must be the same one.
    assert dealt(0) == [(3, 4, 6, 8, 9), (2, 5, 7), (0, 1)]
    assert dealt(1) != dealt(0)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.8, 0.1), "sum to 0.9"),
        ((0.8, 0.1, 0.2), "sum to 1.1"),
        ((1.5, -0.5), "between 0 and 1"),
        ((float("nan"), 1.0), "between 0 and 1"),
        ((), "1 to 3 numbers"),
        ((0.25, 0.25, 0.25, 0.25), "1 to 3 numbers.*got 4"),
    ],
)
def test_fractions_that_are_none_are_refused(fractions: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_by_chunk(geometry_of(10), fractions=fractions)


@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 2**80))
def test_json_gives_the_manifest_back(n: int, chunk: int, seed: int) -> None:
    manifest = split_by_chunk(geometry_of(n, chunk), seed=seed, contiguous=seed % 2 == 0)
    assert SplitManifest.from_json(manifest.to_json()) == manifest
    assert SplitManifest.from_json(manifest.to_json()).to_json() == manifest.to_json()


def test_json_keeps_splits_in_an_order_of_their_own_and_chunks_in_none() -> None:
    manifest = manifest_of(chunks={"test": (2, 0)})
    again = SplitManifest.from_json(manifest.to_json().encode())
    assert again.chunks == {"train": (), "val": (), "test": (2, 0)}
    assert again.sample_indices("test").tolist() == [8, 9, 0, 1, 2, 3]


def test_numbers_of_numpy_become_plain_ones() -> None:
    chunks = {SplitName.TRAIN: np.arange(2), SplitName.VAL: [np.int32(2)]}
    manifest = manifest_of(n_samples=np.int64(10), chunks=chunks, seed=np.uint8(3))
    assert manifest == manifest_of(chunks={"train": (0, 1), "val": (2,)}, seed=3)
    assert SplitManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunks": {"train": [0], "val": [1, 0]}}, "chunk 0 is in 'train' and again in 'val'"),
        ({"chunks": {"train": [0, 0]}}, "chunk 0 is in 'train' and again in 'train'"),
        ({"chunks": {"train": [3]}}, "'train' has chunk 3, but the chunks are 0 to 2"),
        ({"chunks": {"val": [-1]}}, "'val' has chunk -1"),
        ({"chunks": {"val": [True]}}, "'val' has chunk True"),
        ({"chunks": {"val": [1.0]}}, "'val' has chunk 1.0"),
        ({"chunks": {"val": ["1"]}}, "'val' has chunk '1'"),
        ({"chunks": {"dev": [1]}}, "no split 'dev'; there are 'train', 'val', 'test'"),
        ({"n_chunks": 4}, "10 rows in chunks of 4 are 3 chunks, not 4"),
        ({"n_samples": 2**63}, "n_samples must be a whole number >= 0"),
        ({"sample_chunk_size": 0}, "sample_chunk_size must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"seed": None}, "seed must be a whole number >= 0, got None"),
        ({"n_chunks": 3.0}, "n_chunks must be a whole number >= 0, got 3.0"),
    ],
)
def test_a_manifest_that_no_split_can_be_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        manifest_of(**changed)
    entries = {**json.loads(manifest_of().to_json()), **changed}
    with pytest.raises(FormatError, match=f"not the JSON of a SplitManifest: .*{message}"):
        SplitManifest.from_json(json.dumps(entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "its entries are list"),
        ('{"n_chunks": 3}', "its entries are .'n_chunks'., not"),
        (manifest_of().to_json()[:-1], "Expecting"),
        (manifest_of().to_json().replace("[1]", "1"), "not a list for each split"),
        (manifest_of().to_json().replace("{", '{"x": 1, ', 1), "'x'"),
        (b"\xff\xfe{", "SplitManifest.to_json"),
        ("[" * 100_000, "recursion"),
        ("1" * 5000, "digits"),
    ],
)
def test_what_is_no_manifest_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        SplitManifest.from_json(text)


def test_a_manifest_does_not_change() -> None:
    chunks = {"train": [0, 1]}
    manifest = manifest_of(chunks=chunks)
    chunks["train"].append(2)
    assert manifest.chunks["train"] == (0, 1)


def test_a_split_is_known_by_its_text_and_by_its_name() -> None:
    manifest = manifest_of()
    assert manifest.sample_indices(SplitName.VAL).tolist() == [4, 5, 6, 7]
    assert manifest.sample_indices("val").tolist() == [4, 5, 6, 7]
    with pytest.raises(ValueError, match="no split 'dev'"):
        manifest.sample_indices("dev")
