"""Verifying: everything that is committed is looked at, and nothing else."""

import json

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from hand_written import CHUNK_DRAWS, HandWritten
from storing import STREAMING, feed, make

import jaxstore as js
from jaxstore.saving import verify as module
from jaxstore.saving.record import Mark, Record
from jaxstore.saving.tail import Piece, put_tail
from jaxstore.saving.untrusted import CHECKSUM, sealed
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.run_format import MANIFEST
from jaxstore.stores.zarr3 import ZarrStore

COLLECTORS = {"zarr": (js.ZarrCollector, "run.zarr"), "hdf5": (js.HDF5Collector, "run.h5")}


def chunks_below(folder):
    return sorted(p for p in folder.rglob("c/**/*") if p.is_file())


def places(report):
    return [damage.place for damage in report.damage]


def make_run(kind, folder, keep=None):
    collector, name = COLLECTORS[kind]
    with collector(folder / name, dims={"x": ["t"]}, coords={"t": ["a", "b"]}) as made:
        js.scan(
            lambda x, _: (x + 1, {"x": x, "n": x[:, 0]}), jnp.zeros((3, 2)), length=100, chains=3,
            collector=made, keep=keep, progress=False,
        )  # fmt: skip
    return folder / name


@pytest.mark.parametrize("kind", COLLECTORS)
@pytest.mark.parametrize("stops", [None, (100, 0, 7)])
def test_a_sound_run_is_read_whole_and_has_no_damage(kind, stops, tmp_path):
    keep = None if stops is None else lambda i: i < jnp.array(stops)
    path = make_run(kind, tmp_path, keep)
    told = []
    report = js.verify(path, tell=told.append)
    assert report.is_sound, str(report)
    assert report.n_arrays == 3
    n_draws = 300 if stops is None else sum(stops)
    assert report.n_bytes == n_draws * (8 + 4 + 8)
    assert told[-1].n_bytes == told[-1].total_bytes == report.n_bytes
    if kind == "zarr":
        labels = 1
        assert report.n_chunks == len(chunks_below(path)) - labels
    with js.open_run(path) as run:
        assert run.verify().n_chunks == report.n_chunks
    assert "all sound; 3 arrays" in str(report)


def test_a_run_in_memory_is_sound():
    _, run = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=9, progress=False)
    assert run.verify().is_sound


def test_every_chunk_of_a_run_is_read(tmp_path):
    path = make_run("zarr", tmp_path)
    files = [p for p in chunks_below(path) if "t" not in p.relative_to(path).parts]
    assert len(files) > 10
    for file in files:
        good = file.read_bytes()
        name = str(file.relative_to(path)).split("/c/")[0]
        flipped = bytearray(good)
        flipped[len(good) // 2] ^= 4
        for bad in (bytes(flipped), good[:-1], b"", None):
            file.unlink() if bad is None else file.write_bytes(bad)
            report = js.verify(path)
            assert places(report) == [name], (file, str(report))
            index = tuple(
                int(part) for part in str(file.relative_to(path)).split("/c/")[1].split("/")
            )
            assert f"chunk {index}" in report.damage[0].what
        file.write_bytes(good)
    assert js.verify(path).is_sound


def test_chunks_beyond_the_commit_are_nobodys(tmp_path):
    path = tmp_path / "run.zarr"
    run = HandWritten(ZarrStore.new(path))
    run.grow(3 * CHUNK_DRAWS, CHUNK_DRAWS)
    run.commit((2 * CHUNK_DRAWS, CHUNK_DRAWS))
    (path / "samples/x/c/0/2/0").write_bytes(b"of a draw that never counted")
    assert js.verify(path).is_sound
    run.commit((2 * CHUNK_DRAWS + 1, CHUNK_DRAWS))
    assert places(js.verify(path)) == ["samples/x"]


def test_chunks_of_several_chains_are_read_once():
    spec = ArraySpec("x", (5, 70), (2, 4), np.dtype("f4"), ("chain", "draw"))
    regions = module.regions_of(spec, [70, 3, 0, 1, 0])
    assert regions == [
        (slice(0, 2), slice(0, 64)),
        (slice(0, 2), slice(64, 70)),
        (slice(2, 4), slice(0, 1)),
    ]


def test_arrays_that_are_not_as_the_manifest_has_them():
    run = HandWritten(MemoryStore())
    run.grow(8, 8)
    arrays = run.store._arrays
    stored = dict(arrays)
    del arrays["samples/x"]
    assert places(run_report(run)) == ["samples/x"]
    arrays["samples/x"] = stored["samples/deep/n"]
    (damage,) = run_report(run).damage
    assert "it is int32[2, 8], the manifest has float32 and [3]" in damage.what
    arrays["samples/x"] = stored["samples/x"]
    run.store.resize("samples/x", (2, 7, 3))
    (damage,) = run_report(run).damage
    assert "its shape is [2, 7, 3], and 2 chains of up to 8 draws are committed" in damage.what
    run.store.resize("samples/x", (1, 8, 3))
    assert places(run_report(run)) == ["samples/x"]


def run_report(run):
    return js.verify(run.store)


@pytest.mark.parametrize("draw", [0, 3, 20, 25])
def test_steps_have_to_grow(draw):
    run = HandWritten(MemoryStore())
    run.grow(26, 26)
    wrong = np.array([[-1 if draw == 0 else 3 * (draw - 1)]])
    run.store.write("samples/iteration", (1, draw), wrong)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHUNKS", 5)
        (damage,) = run_report(run).damage
    assert damage.place == "samples/iteration"
    assert f"the step of draw {draw} of chain 1 is not after the last" in damage.what


def test_manifest_and_record():
    run = HandWritten(MemoryStore())
    run.grow(8, 8)
    manifest = run.store.attrs()[MANIFEST]
    run.store.set_attrs({MANIFEST: {**manifest, "created_at": "2027"}})
    (damage,) = run_report(run).damage
    assert damage.place == "manifest"
    assert "its checksum differs" in damage.what
    run.store.set_attrs({MANIFEST: manifest})
    record = run.store.committed()
    for bad in ({**record, "draws": [8, -1]}, {**record, "draws": 10**18}, [], {}):
        run.store._record = json.dumps(bad)
        assert places(run_report(run)) == ["commit record"]
    run.store._record = json.dumps(record)
    assert run_report(run).is_sound
    other = MemoryStore()
    with pytest.raises(js.MissingError, match="holds no run yet"):
        js.verify(other)
    other.create(ArraySpec("x", (3,), (3,), np.dtype("f4"), ("x",)))
    with pytest.raises(js.FormatError, match="neither a jaxstore run nor a storage"):
        js.verify(other)


def test_draws_in_a_tail_need_no_chunk_and_the_tail_is_looked_at():
    run = HandWritten(ZarrStore.new("memory://"))
    run.grow(8, 8)
    short = HandWritten(MemoryStore())
    short.grow(10, 10)
    mark = Mark.next("tail", None)
    pieces = [
        Piece(spec.name, chain, 8, short.store.read(spec.name)[chain : chain + 1, 8:10])
        for spec in short.specs
        for chain in range(2)
    ]
    put_tail(run.store, "samples/iteration", mark, pieces)
    run.store.commit(Record.now((10, 10), "running", None, mark).to_json())
    report = run_report(run)
    assert report.is_sound, str(report)
    assert report.n_chunks == 4 * 2 * (8 // CHUNK_DRAWS)
    blob = bytearray(run.store.get_blob("samples/iteration", mark.key))
    blob[len(blob) // 3] ^= 1
    run.store.put_blob("samples/iteration", mark.key, [blob])
    assert mark.key in places(run_report(run))
    other = Mark(mark.key, "another")
    run.store.commit(Record.now((10, 10), "running", None, other).to_json())
    put_tail(run.store, "samples/iteration", mark, pieces)
    assert mark.key in places(run_report(run))


@pytest.mark.parametrize("kind", STREAMING)
def test_storages(kind, tmp_path):
    path = tmp_path / STREAMING[kind][1]
    with make(kind, tmp_path, stride=1, chunk_size=4) as storage:
        feed(storage, range(19))
    report = js.verify(path)
    assert report.is_sound, str(report)
    assert (report.n_arrays, report.n_chunks) == (2, 10)
    assert report.n_bytes == 19 * 8 * (1 + 6)
    if kind == "zarr":
        chunk = path / "data" / "c" / "3" / "0" / "0"
        good = chunk.read_bytes()
        chunk.write_bytes(good[:-2])
        (damage,) = js.verify(path).damage
        assert (damage.place, "chunk (3, 0, 0)" in damage.what) == ("data", True)
        chunk.write_bytes(good)
        store = ZarrStore.open(path, mode="r+")
        manifest = store.attrs()[MANIFEST]
        assert CHECKSUM in manifest
        store.set_attrs({MANIFEST: manifest | {"stride": 7}})
        assert places(js.verify(path)) == ["manifest"]
        store.set_attrs({MANIFEST: sealed(manifest)})
        for bad in ({"snapshots": -1}, {"snapshots": 2**70}, {}, {"snapshots": "4"}):
            store.commit({"state": "running", "committed_at": "x", **bad})
            assert places(js.verify(path)) == ["commit record"]
            with pytest.raises(js.FormatError, match="commit record"):
                js.open_storage(path)
        store.commit({"state": "running", "committed_at": "x", "snapshots": 4, "tail": {"time": 3}})
        assert places(js.verify(path)) == ["commit record"]


def test_chunks_of_an_hdf5_file_are_read(tmp_path):
    path = make_run("hdf5", tmp_path)
    with h5py.File(path) as file:
        place = file["samples/x"].id.get_chunk_info_by_coord((0, 0, 0))
    data = bytearray(path.read_bytes())
    data[place.byte_offset + place.size // 2] ^= 16
    path.write_bytes(data)
    (damage,) = js.verify(path).damage
    assert damage.place == "samples/x"
    assert "chunk (0, 0, 0)" in damage.what


def test_too_much_damage_ends_the_look(tmp_path, monkeypatch):
    path = make_run("zarr", tmp_path)
    for file in chunks_below(path):
        file.write_bytes(b"")
    assert len(js.verify(path).damage) > 5
    monkeypatch.setattr(module, "MOST_DAMAGE", 5)
    report = js.verify(path)
    assert (len(report.damage), report.is_whole) == (5, False)
    assert "after 5 lines nothing else was read" in str(report)
    assert report.to_json()["damage"][0]["place"] == "samples/n"


def test_a_run_that_is_being_written_may_be_verified(tmp_path):
    run = HandWritten(ZarrStore.new(tmp_path / "run.zarr"))
    assert js.verify(tmp_path / "run.zarr").is_sound
    for n in range(1, 12):
        run.grow(n, n // 2)
        report = js.verify(tmp_path / "run.zarr")
        assert report.is_sound, str(report)
    assert report.n_bytes == (11 + 5) * (12 + 4 + 8 + 8)
