from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import zarr
from arrays import assert_same_bits, numbers, ramp, spec
from zarr_places import SETTINGS, every_file

from jaxstore.errors import FormatError
from jaxstore.stores import files
from jaxstore.stores.zarr3 import ZarrStore


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_flipped_bit_is_noticed(tmp_path: Path, compression: str | None) -> None:
    store = ZarrStore.new(tmp_path / "a", compression=compression)
    store.create(spec("g/x", (1, 64), (1, 16)))
    store.write("g/x", (0, 0), numbers((1, 64)))
    chunk = tmp_path / "a/g/x/c/0/2"
    sound = chunk.read_bytes()
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        chunk.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"'g/x'.*chunk \(0, 2\) is damaged"):
            store.read("g/x", (slice(None), slice(30, 40)))
    assert_same_bits(store.read("g/x", (slice(None), slice(0, 32))), numbers((1, 64))[:, :32])


# Without a checksum, zarr hands a Blosc chunk that was cut short to Blosc, which does not notice.
@pytest.mark.parametrize("settings", [s for s in SETTINGS if s["checksum"] or not s["compression"]])
def test_a_chunk_cut_short_is_noticed(tmp_path: Path, settings: dict[str, Any]) -> None:
    store = ZarrStore.new(tmp_path / "a", **settings)
    store.create(spec("x", (1, 16), (1, 16)))
    store.write("x", (0, 0), numbers((1, 16)))
    chunk = tmp_path / "a/x/c/0/0"
    sound = chunk.read_bytes()
    for n_bytes in (0, 3, 10, len(sound) - 1):
        chunk.write_bytes(sound[:n_bytes])
        with pytest.raises(FormatError, match=r"'x'.*damaged"):
            store.read("x")


@pytest.mark.parametrize("fault", ["write", "rename"])
def test_a_full_disk_is_an_oserror_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (1, 8), (1, 4)))
    store.write("x", (0, 0), ramp((1, 8)))
    store.commit({"draws": 8})
    before = every_file(tmp_path)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, {"write": "writev", "rename": "replace"}[fault], fail)
    for change in (
        lambda: store.write("x", (0, 4), ramp((1, 4))),
        lambda: store.resize("x", (1, 12)),
        lambda: store.commit({"draws": 12}),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            change()
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert every_file(tmp_path) == before
    assert store.spec("x").shape == (1, 8)
    assert store.committed() == {"draws": 8}


def test_short_writes_of_the_system_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_some(file: int, parts: list[memoryview]) -> int:
        return os.write(file, parts[0][:7])

    monkeypatch.setattr(files, "_MOST_BYTES", 33)
    monkeypatch.setattr(os, "writev", write_some)
    store = ZarrStore.new(tmp_path / "a", compression=None)
    store.create(spec("x", (1, 100), (1, 64)))
    store.write("x", (0, 0), ramp((1, 100)))
    assert_same_bits(store.read("x"), ramp((1, 100)))


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("g/x", (1, 8), (1, 4)))
    host = files.socket.gethostname()
    dead, alive = f"{host}-{2**22 + 1}-0", f"{host}-{os.getpid()}-7"
    for folder in ("", "g", "g/x"):
        for owner in (dead, alive, "elsewhere-5-0"):
            (tmp_path / "a" / folder / f"zarr.json.{owner}.partial").write_text("{")
    store.close()
    ZarrStore.open(tmp_path / "a")
    assert len(list(tmp_path.rglob("*.partial"))) == 9
    ZarrStore.open(tmp_path / "a", mode="r+")
    left = {path.name for path in tmp_path.rglob("*.partial")}
    assert left == {f"zarr.json.{alive}.partial", "zarr.json.elsewhere-5-0.partial"}


def test_cutting_back_removes_chunks_beyond(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a")
    store.create(spec("x", (2, 16), (1, 4)))
    store.write("x", (0, 0), ramp((2, 24)))
    store.resize("x", (2, 6))
    kept = sorted(str(p.relative_to(tmp_path / "a/x/c")) for p in tmp_path.rglob("c/*/*"))
    assert kept == ["0/0", "0/1", "1/0", "1/1"]
    assert_same_bits(store.read("x"), ramp((2, 24))[:, :6])


def test_whole_chunks_that_are_not_compressed_are_not_copied(tmp_path: Path) -> None:
    store = ZarrStore.new(tmp_path / "a", compression=None)
    store.create(spec("x", (1, 4, 8), (1, 2, 8)))
    seen: list[int] = []
    put = store._blobs.put

    def record(key: str, parts: Any) -> None:
        seen.append(parts[0].ctypes.data)
        put(key, parts)

    store._blobs.put = record  # type: ignore[method-assign]
    values = ramp((1, 4, 8))
    store.write("x", (0, 0, 0), values)
    assert seen == [values.ctypes.data, values.ctypes.data + 64]


def test_damage_in_an_array_of_another_program_is_noticed(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a")
    codecs = {"compressors": [zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()]}
    group.create_array("x", shape=(1, 8), chunks=(1, 8), dtype="f4", **codecs)[:] = 1
    chunk = tmp_path / "a/x/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"'x' in .*checksum do not match.*Restore it"):
        ZarrStore.open(tmp_path / "a").read("x")
