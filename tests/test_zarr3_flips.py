"""Bits flipped and files cut short, at random places of a store: each is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from arrays import assert_same_bits, numbers, spec

from jaxstore.errors import JaxstoreError
from jaxstore.stores.zarr3 import ZarrStore

N_FLIPS = 50
WHOLE = (slice(None), slice(None))


@pytest.fixture(scope="module", params=["zstd", "lz4", None])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips") / "a"
    store = ZarrStore.new(folder, compression=request.param)
    store.set_attrs({"manifest": {"names": ["ß", 1.5e-7], "deep": [{"a": None}]}})
    for name, dtype in (("g/x", "float32"), ("g/y", "bfloat16")):
        store.create(spec(name, (2, 120), (1, 4), dtype, unit="m"))
        store.write(name, (0, 0), numbers((2, 120), dtype))
    store.create_labels("g/city", ["Zürich", "", "尺寸"])
    store.commit({"draws": [120, 120]})
    store.seal()
    store.close()
    return folder


def read_all(folder: Path) -> None:
    """Read everything; what is read is right."""
    store = ZarrStore.open(folder)
    assert store.committed() == {"draws": [120, 120]}
    assert store.attrs() == {"manifest": {"names": ["ß", 1.5e-7], "deep": [{"a": None}]}}
    assert store.names() == ["g/x", "g/y"]
    assert store.attrs("g") == {}
    for name, dtype in (("g/x", "float32"), ("g/y", "bfloat16")):
        assert store.attrs(name) == {"unit": "m"}
        assert_same_bits(store.read(name, is_strict=True), numbers((2, 120), dtype))
    assert store.labels("g/city") == ["Zürich", "", "尺寸"]


def flips(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    for position in rng.integers(0, len(data) * 8, N_FLIPS):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        yield bytes(damaged)


def cuts(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    for n_bytes in {0, len(data) - 1, *rng.integers(0, len(data), 20).tolist()}:
        yield data[:n_bytes]


def test_damage_of_every_document_is_noticed(folder: Path) -> None:
    read_all(folder)
    rng = np.random.default_rng(0)
    documents = sorted(folder.rglob("zarr.json"))
    assert len(documents) == 5
    for path in documents:
        sound = path.read_bytes()
        for damaged in (*flips(sound, rng), *cuts(sound, rng)):
            if same_json(sound, damaged):  # "1E-7" for "1e-7": nothing was lost
                continue
            path.write_bytes(damaged)
            with pytest.raises(JaxstoreError, match=r"zarr\.json of|no Zarr v3 group"):
                read_all(folder)
        path.write_bytes(sound)
    read_all(folder)


def test_damage_of_50_chunks_is_noticed(folder: Path) -> None:
    rng = np.random.default_rng(1)
    chunks = [p for p in sorted(folder.rglob("c/*/*")) if "city" not in p.parts]
    assert len(chunks) == 120
    store = ZarrStore.open(folder)
    for path in rng.choice(np.array(chunks, object), 50, replace=False):
        name = path.relative_to(folder).as_posix().partition("/c/")[0]
        index = f"({path.parent.name}, {path.name})"
        sound = path.read_bytes()
        for damaged in (*list(flips(sound, rng))[:3], *list(cuts(sound, rng))[:3]):
            path.write_bytes(damaged)
            assert [t.partition(":")[0] for t in store.damage(name, WHOLE)] == [
                f"chunk {index} is damaged"
            ]
            with pytest.raises(JaxstoreError, match=f"'{name}'.*chunk"):
                store.read(name)
        path.unlink()
        assert list(store.damage(name, WHOLE)) == [f"chunk {index} is absent"]
        path.write_bytes(sound)
        assert list(store.damage(name, WHOLE)) == []


def test_damage_of_labels_is_noticed(folder: Path) -> None:
    rng = np.random.default_rng(2)
    path = folder / "g/city/c/0"
    sound = path.read_bytes()
    for damaged in (*flips(sound, rng), *cuts(sound, rng)):
        path.write_bytes(damaged)
        with pytest.raises(JaxstoreError, match="'g/city'.*damaged"):
            read_all(folder)
    path.unlink()
    with pytest.raises(JaxstoreError, match="'g/city'.*absent"):
        read_all(folder)
    path.write_bytes(sound)


def same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False
