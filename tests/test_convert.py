"""From one format into another, and back: nothing is lost, nothing is repeated."""

import math
import shutil
import subprocess
import sys

import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import zarr
from collecting import same
from hand_written import HandWritten, steps_name
from processed import Counted, bits, numbers, run, waves, zarr_file
from resuming import Stopped, stopped_after
from storing import ALL, assert_holds, feed, make, snapshot

import jaxstore as js
from jaxstore.errors import ExistsError, FormatError, MissingError
from jaxstore.face import convert_arrays
from jaxstore.face.convert_arrays import fit_chunks, pieces
from jaxstore.face.convert_tally import Tally
from jaxstore.face.result_facts import results_of
from jaxstore.saving.layout import home_of
from jaxstore.saving.record import Mark, Record
from jaxstore.saving.snapshot_arrays import Snapshot
from jaxstore.saving.snapshot_stream import tail_to_json
from jaxstore.saving.tail import Piece, put_tail
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.location import open_store
from jaxstore.stores.zarr3 import ZarrStore

SUFFIX = {"zarr": "zarr", "hdf5": "h5"}
COLLECTORS = {"zarr": js.ZarrCollector, "hdf5": js.HDF5Collector}
both = pytest.mark.parametrize(("kind", "other"), [("zarr", "hdf5"), ("hdf5", "zarr")])


def step(x, _):
    x = 0.9 * x + jnp.sin(jnp.arange(3)[:, None] + 7 * x)
    n = jnp.round(x[:, 0]).astype(jnp.int32)
    deep = {"b": x, "z": x[:, 0] * 1j, "small": x.astype(jnp.bfloat16)}
    return x, {"a": deep, "n": n, "is": n > 0, "key": jax.vmap(jax.random.key)(n)}


def scan(collector, *, length=60, **options):
    x = jnp.ones((3, 4)) * jnp.arange(4)
    options = {"chains": 3, "progress": False} | options
    with collector:
        return js.scan(step, x, length=length, collector=collector, **options)[1]


def collector(kind, path, **options):
    coords = {"site": ["x", "y", "z", "w"], "again": np.arange(4) * 1.5}
    dims = {"a/b": ["site"], "a/small": ["again"]}
    how = {"dims": dims, "coords": coords, "settings": {"by": "me"}, **options}
    return COLLECTORS[kind](path, **how)


def all_of(path):
    """All that a store holds: arrays with their bits, labels, attributes, record, checkpoint."""
    store = open_store(path)
    try:
        names = store.names(with_labels=True)
        held = {name: store.labels(name) for name in names}
        arrays = {
            name: (store.spec(name), store.read(name).tobytes())
            for name, labels in held.items()
            if labels is None
        }
        attrs = {name: store.attrs(name) for name in ("", *groups_of(names), *names)}
        record = store.committed()
        point = (record or {}).get("checkpoint")
        home = f"{attrs['']['jaxstore']['groups'][0]}/iteration" if point else ""
        blob = store.get_blob(home, point["key"]) if point else None
        return {"arrays": arrays, "labels": held, "attrs": attrs, "record": record, "blob": blob}
    finally:
        store.close()


def groups_of(names):
    return {name.rpartition("/")[0] for name in names if "/" in name}


def chunks_in(folder):
    """Keys of all chunks of a Zarr store."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("**/c/**/*")}


def told(result):
    return result.provenance, {name: np.asarray(v).tobytes() for name, v in result.params.items()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestRun:
    @both
    def test_there_and_back_all_is_equal(self, kind, other):
        a, b, c = f"a.{SUFFIX[kind]}", f"b.{SUFFIX[other]}", f"c.{SUFFIX[kind]}"
        scan(collector(kind, a), checkpoint_every=20)
        done = js.convert(a, b)
        assert (done.kind, done.notes) == ("run", ())
        assert js.verify(b).is_sound
        js.convert(b, c)
        assert all_of(a) == all_of(b) == all_of(c)
        with js.open_run(a) as first, js.open_run(b) as second:
            for mine, theirs in zip(first.leaves, second.leaves, strict=True):
                assert same(mine[...], theirs[...])
            assert first.settings == second.settings
            assert first.created_at == second.created_at
            assert done.n_bytes == first.nbytes + 8 * 3 * 60 + 4 * 8

    @pytest.mark.parametrize("kind", ["zarr", "hdf5"])
    @pytest.mark.parametrize("lengths", [(0, 7, 60), (60, 3, 0)])
    def test_chains_that_end_early_end_there_too(self, here, kind, lengths):
        ends = jnp.array(lengths)
        scan(collector(kind, f"a.{SUFFIX[kind]}", chunk_draws=8), keep=lambda i: i < ends)
        js.convert(f"a.{SUFFIX[kind]}", "b.h5")
        js.convert("b.h5", "c.zarr")
        with js.open_run(f"a.{SUFFIX[kind]}") as first, js.open_run("c.zarr") as second:
            assert second.sample_count.tolist() == list(lengths)
            assert same(first.samples["a"]["b"][...], second.samples["a"]["b"][...])
            assert same(first.iteration, second.iteration)
        assert js.verify("b.h5").is_sound
        assert js.verify("c.zarr").is_sound
        if kind == "zarr":  # no chunk is made of nothing but fill values
            assert chunks_in(here / "c.zarr") == chunks_in(here / "a.zarr") != set()

    @both
    @pytest.mark.parametrize("chunk_rows", [None, 7])
    def test_what_was_stopped_resumes_from_the_copy(self, kind, other, chunk_rows):
        a, b = f"a.{SUFFIX[kind]}", f"b.{SUFFIX[other]}"
        how = {"checkpoint_every": 10, "buffer_draws": 5, "length": 100}
        with pytest.raises(Stopped), stopped_after(9):
            scan(collector(kind, a), **how)
        js.convert(a, b, chunk_rows=chunk_rows)
        found = open_store(b)
        n_before = found.committed()["draws"][0]
        assert 0 < n_before < 100
        assert found.committed()["checkpoint"]
        if chunk_rows:
            assert found.spec("samples/a/b").chunks[1] == chunk_rows
        found.close()
        resumed = scan(collector(other, b), resume=True, **how)
        wanted = scan(js.MemoryCollector(), length=100)
        for mine, theirs in zip(resumed.leaves, wanted.leaves, strict=True):
            assert same(mine[...], theirs[...])
        assert js.verify(b).is_sound

    @pytest.mark.parametrize("kind", ["zarr", "hdf5"])
    def test_of_a_live_run_the_copy_holds_what_is_committed(self, kind):
        path = f"a.{SUFFIX[kind]}"
        store = (ZarrStore if kind == "zarr" else HDF5Store).new(path)
        live = HandWritten(store, settings={"length": 90})
        live.grow(9, 6)
        done = js.convert(path, "b.zarr")
        assert "is running, or was killed" in done.notes[0]
        assert "15 draws" in done.notes[0]
        live.grow(12, 12, state="complete")
        with js.open_run("b.zarr") as copy:
            assert (copy.state, copy.sample_count.tolist()) == ("running", [9, 6])
            for name, values in live.samples(9, 6).items():
                (leaf,) = (leaf for leaf in copy.leaves if leaf.name == name)
                assert same(leaf.plain()[...], values)
        store.close()

    def test_draws_that_wait_beside_the_chunks_of_hdf5_lie_in_the_copy(self):
        store = HDF5Store.new("a.h5")
        live = HandWritten(store)
        live.grow(8, 8)
        longer = live.samples(11, 11)
        longer[steps_name()] = np.tile(np.arange(11) * 3, (2, 1))
        rows = [Piece(n, c, 8, v[c : c + 1, 8:]) for n, v in longer.items() for c in range(2)]
        mark = Mark("tail-0", "n")
        put_tail(store, home_of(live.layout), mark, rows)
        store.commit(Record.now((11, 11), "running", None, mark).to_json())
        store.close()
        js.convert("a.h5", "b.zarr")
        with js.open_run("b.zarr") as copy:
            assert copy.sample_count.tolist() == [11, 11]
            assert same(copy.iteration, longer[steps_name()])
            for leaf in copy.leaves:
                assert same(leaf.plain()[...], longer[leaf.name])
        assert js.verify("b.zarr").is_sound

    def test_to_an_object_store_and_back(self, s3_bucket):
        scan(collector("zarr", "a.zarr"), checkpoint_every=20)
        url = f"s3://{s3_bucket}/b.zarr"
        done = js.convert("a.zarr", url)
        assert (done.target, js.verify(url).is_sound) == (url, True)
        js.convert(url, "c.h5")
        assert all_of("a.zarr") == all_of("c.h5")
        with pytest.raises(ExistsError, match="is not empty"):
            js.convert("a.zarr", url)

    def test_a_run_without_draws_is_one_there_too(self):
        scan(collector("zarr", "a.zarr"), burn_in=60)
        js.convert("a.zarr", "b.h5")
        with js.open_run("b.h5") as copy:
            assert (copy.state, copy.sample_count.tolist()) == ("complete", [0, 0, 0])

    def test_what_users_put_beside_the_draws_comes_along(self):
        scan(collector("zarr", "a.zarr"))
        group = zarr.open_group("a.zarr", mode="r+", use_consolidated=False)
        group.attrs["mine"] = {"deep": [1, None, "x"]}
        group.create_array("extra/y", data=np.arange(5), chunks=(2,))
        run(lambda x: {"top": x.max()}, "a.zarr:/samples/n", "a.zarr:/results")
        js.convert("a.zarr", "b.h5")
        with h5py.File("b.h5") as file:
            assert file["extra/y"][...].tolist() == list(range(5))
        assert open_store("b.h5").attrs()["mine"] == {"deep": [1, None, "x"]}
        first, second = results_of("a.zarr"), results_of("b.h5")
        assert [bits(result) for result in first] == [bits(result) for result in second] != []


class TestRefusals:
    @pytest.fixture
    def made(self):
        scan(collector("zarr", "a.zarr", chunk_draws=16))

    def left(self, here):
        return sorted(path.name for path in here.iterdir())

    @pytest.mark.parametrize("harm", ["flip", "remove"])
    def test_a_damaged_source_is_refused_with_its_place(self, made, here, harm):
        chunk = here / "a.zarr/samples/a/b/c/0/2/0"
        data = bytearray(chunk.read_bytes())
        data[20] ^= 1
        chunk.write_bytes(data) if harm == "flip" else chunk.unlink()
        with pytest.raises(FormatError, match=r"'samples/a/b' .*chunk \(0, 2, 0\)"):
            js.convert("a.zarr", "b.h5")
        assert self.left(here) == ["a.zarr"]

    def test_an_array_that_is_gone_is_refused(self, here):
        live = HandWritten(ZarrStore.new("a.zarr"))
        live.grow(9, 6, state="interrupted")
        live.store.close()
        shutil.rmtree(here / "a.zarr/samples/x")
        with pytest.raises(FormatError, match="a.zarr: samples/x: no 'samples/x'"):
            js.convert("a.zarr", "b.h5")
        assert self.left(here) == ["a.zarr"]

    def test_a_checkpoint_that_is_gone_is_refused(self, here):
        scan(collector("hdf5", "a.h5"), checkpoint_every=20)
        (point,) = here.glob("a.h5.checkpoint-*")
        point.unlink()
        with pytest.raises(FormatError, match="checkpoint-[01] of a.h5 is gone"):
            js.convert("a.h5", "b.zarr")
        assert self.left(here) == ["a.h5"]

    @pytest.mark.parametrize("name", ["b.h5", "b.zarr", "b.npz"])
    def test_nothing_is_overwritten(self, made, here, name):
        (here / name).write_text("mine")
        with pytest.raises(ExistsError, match="already there"):
            js.convert("a.zarr", name)
        assert (here / name).read_text() == "mine"
        assert self.left(here) == ["a.zarr", name]

    def test_the_blob_of_a_file_that_is_gone_is_not_taken_over(self, made, here):
        (here / "b.h5.checkpoint-0").write_text("mine")
        with pytest.raises(ExistsError, match=r"b\.h5\.checkpoint-0 is there"):
            js.convert("a.zarr", "b.h5")

    def test_what_is_not_there(self):
        with pytest.raises(MissingError, match="nothing is there"):
            js.convert("a.zarr", "b.h5")
        zarr.open_group("empty.zarr", mode="w")
        with pytest.raises(MissingError, match="nothing to convert"):
            js.convert("empty.zarr", "b.h5")

    def test_an_npz_cannot_hold_a_run(self, made, here):
        with pytest.raises(FormatError, match=r"b\.npz: .*storages only"):
            js.convert("a.zarr", "b.npz")
        assert self.left(here) == ["a.zarr"]

    def test_an_error_or_ctrl_c_in_the_midst_leaves_nothing(self, made, here, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        for target in ("b.h5", "b.zarr"):
            monkeypatch.setattr(Tally, "add", stop)
            with pytest.raises(KeyboardInterrupt):
                js.convert("a.zarr", target)
            monkeypatch.undo()
            monkeypatch.chdir(here)
            assert self.left(here) == ["a.zarr"]

    @pytest.mark.slow
    @pytest.mark.parametrize("target", ["b.h5", "b.zarr"])
    @pytest.mark.parametrize("n_pieces", [1, 5])
    def test_a_kill_leaves_no_target_and_the_next_call_says_what_to_do(
        self, made, here, target, n_pieces
    ):
        code = f"""
import os, signal
import jaxstore as js
from jaxstore.face.convert_tally import Tally
add, left = Tally.add, [{n_pieces}]
def kill(tally, n_bytes):
    add(tally, n_bytes)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Tally.add = kill
js.convert("a.zarr", {target!r})
"""
        assert subprocess.run([sys.executable, "-c", code]).returncode == -9
        assert self.left(here) == ["a.zarr", f"{target}.converting"]
        with pytest.raises(ExistsError, match=rf"{target}.converting is there.*remove it"):
            js.convert("a.zarr", target)
        shutil.rmtree(here / f"{target}.converting")
        js.convert("a.zarr", target)
        assert js.verify(target).is_sound
        assert all_of("a.zarr") == all_of(target)


class TestStorage:
    @pytest.mark.parametrize("kind", ALL)
    @pytest.mark.parametrize("other", ["b.zarr", "b.h5", "b.npz"])
    def test_every_format_into_every_other(self, here, kind, other):
        with make(kind, here) as storage:
            feed(storage, range(9))
        done = js.convert(ALL[kind][1], other)
        assert done.kind == "storage"
        assert ("stride" in "".join(done.notes)) == (kind == "npz")
        with js.open_storage(other) as stored:
            assert_holds(stored.values, range(9))
            assert stored.is_complete
        if other != "b.npz":
            assert js.verify(other).is_sound

    @pytest.mark.parametrize("dtype", ["bool", "complex64", ml_dtypes.bfloat16])
    def test_all_comes_back_through_npz(self, here, dtype):
        with make("zarr", here, stride=2) as storage:
            feed(storage, range(0, 9, 2), dtype=dtype)
        js.convert("paths.zarr", "b.npz")
        js.convert("b.npz", "c.h5")
        js.convert("c.h5", "d.zarr")
        with js.open_storage("b.npz") as stored:
            assert_holds(stored.values, range(0, 9, 2), dtype=dtype)
        assert all_of("paths.zarr") == all_of("c.h5") == all_of("d.zarr")

    def test_snapshots_that_wait_in_the_record_count(self, here):
        with make("hdf5", here) as storage:
            feed(storage, range(6))
        store = open_store("paths.h5", mode="r+")
        record = store.committed()
        tail = tuple(Snapshot(0.5 * i, snapshot(i)) for i in (4, 5))
        store.commit(record | {"snapshots": 4, "state": "running", "tail": tail_to_json(tail)})
        store.close()
        done = js.convert("paths.h5", "b.zarr")
        assert "is running, or was killed" in done.notes[0]
        with js.open_storage("b.zarr") as stored:
            assert_holds(stored.values, range(6))
            assert not stored.is_complete

    def test_what_lies_beside_a_storage_is_not_left_out(self, here):
        with make("zarr", here) as storage:
            feed(storage, range(6))
        group = zarr.open_group("paths.zarr", mode="r+", use_consolidated=False)
        group.create_array("extra", data=np.arange(3))
        with pytest.raises(FormatError, match="holds extra beside the storage"):
            js.convert("paths.zarr", "b.npz")
        js.convert("paths.zarr", "b.h5")
        assert open_store("b.h5").read("extra").tolist() == [0, 1, 2]

    def test_an_empty_storage(self, here):
        make("zarr", here).close()
        js.convert("paths.zarr", "b.h5")
        js.convert("b.h5", "c.npz")
        js.convert("c.npz", "d.zarr")
        for path in ("b.h5", "c.npz", "d.zarr"):
            with js.open_storage(path) as stored:
                assert len(stored.time) == 0


class TestResults:
    @both
    def test_complete_partial_and_reduced_ones(self, kind, other):
        a, b, c = f"a.{SUFFIX[kind]}", f"b.{SUFFIX[other]}", f"c.{SUFFIX[kind]}"
        values = waves()
        run(lambda x, *, w: {"amp": x.max() * w.sum()}, values, a, name="p", params={"w": waves(2)})
        run(lambda x: x.sum(), values, f"{a}:/deep/er", name="q", reduce="sum")
        failing = Counted(fails_at=9.0)
        run(
            failing,
            numbers(20),
            a,
            name="bad",
            version="1",
            chunks=4,
            batch_size=4,
            on_error="record",
        )
        done = js.convert(a, b)
        assert done.kind == "results"
        js.convert(b, c)
        found = [
            {
                result.name: [bits(result), result.status.tolist(), result.errors, told(result)]
                for result in results_of(path)
            }
            for path in (a, b, c)
        ]
        assert found[0] == found[1] == found[2]
        assert len(found[0]) == 3
        (partial,) = (result for result in results_of(b) if result.state == "partial")
        assert "no fit of 9" in partial.errors[9]
        assert all(result.verify().is_sound for result in results_of(c))

    @both
    def test_a_partial_result_goes_on_in_the_copy(self, kind, other):
        a, b = f"a.{SUFFIX[kind]}", f"b.{SUFFIX[other]}"
        how = {"name": "p", "version": "1", "chunks": 4, "batch_size": 4}
        with pytest.raises(Exception, match="no fit of 13"):
            run(Counted(fails_at=13.0), numbers(20), a, **how)
        js.convert(a, b)
        again = Counted()
        result = run(again, numbers(20), b, **how)
        assert result.state == "complete"
        assert sorted(again.seen) == list(range(12, 20))
        assert np.asarray(result["double"]).tolist() == [2.0 * i for i in range(20)]

    def test_damage_is_refused_with_its_place(self, here):
        run(lambda x: {"amp": x.max()}, waves(), "a.zarr", name="p")
        (chunk,) = (here / "a.zarr").glob("*/amp/c/0")
        chunk.unlink()
        with pytest.raises(FormatError, match=r"'amp' .*chunk \(0,\)"):
            js.convert("a.zarr", "b.h5")
        assert not (here / "b.h5").exists()

    def test_one_result_alone_is_refused(self):
        result = run(lambda x: {"amp": x.max()}, waves(), "a.zarr", name="p")
        with pytest.raises(FormatError, match="Convert the place that holds it"):
            js.convert(result.location, "b.h5")


class TestArrays:
    def test_groups_attributes_labels_and_single_values(self):
        group = zarr.open_group("a.zarr", mode="w", attributes={"who": "me"})
        deep = group.create_group("deep/er", attributes={"list": [1, None, {"x": 2.5}]})
        deep.create_array("y", data=waves(), chunks=(3, 4), attributes={"unit": "m"})
        deep.create_array("one", data=np.float32(3.5))
        deep.create_array("none", shape=(0, 2), chunks=(1, 2), dtype="int8")
        text = np.array(["ä", ""], dtype=np.dtypes.StringDType())
        group.create_array("label", data=text, dimension_names=("label",), attributes={"k": 1})
        js.convert("a.zarr", "b.h5")
        js.convert("b.h5", "c.zarr")
        assert all_of("a.zarr") == all_of("b.h5") == all_of("c.zarr")
        with h5py.File("b.h5") as file:
            assert same(file["deep/er/y"][...], waves())
            assert file["deep/er/y"].attrs["unit"] == "m"

    def test_what_other_programs_wrote(self):
        group = zarr.open_group("a.zarr", mode="w")
        sharded = {"chunks": (2, 6), "shards": (8, 6), "fill_value": 7.0}
        group.create_array("sharded", data=waves(), **sharded)
        holes = group.create_array("holes", shape=(9,), chunks=(2,), dtype=">i4", fill_value=-1)
        holes[2:4] = 5
        js.convert("a.zarr", "b.h5")
        with h5py.File("b.h5", "r+") as file:
            file.create_dataset("plain", data=waves())
            file.create_dataset("gzip", data=waves(), chunks=(4, 3), compression="gzip")
        js.convert("b.h5", "c.zarr", chunk_rows=5, compression=None)
        found = zarr.open_group("c.zarr", mode="r")
        for name in ("sharded", "plain", "gzip"):
            assert same(found[name][...], waves())
            assert found[name].chunks[0] == 5
        assert found["holes"][...].tolist() == [-1, -1, 5, 5, -1, -1, -1, -1, -1]

    def test_a_loader_gives_the_same_batches(self):
        zarr_file("a.zarr", waves(40))
        js.convert("a.zarr", "b.h5")
        first, second = (
            [np.asarray(batch["raw"]) for batch in js.Loader(path, batch_size=7, to="numpy")]
            for path in ("a.zarr", "b.h5")
        )
        assert all(map(same, first, second))
        assert len(first) == len(second) == 6

    @pytest.mark.filterwarnings("ignore:The data type:zarr.errors.UnstableSpecificationWarning")
    @pytest.mark.parametrize("kind", ["zarr", "hdf5"])
    def test_text_that_is_no_coordinate_is_refused_by_name(self, here, kind):
        if kind == "zarr":
            zarr.open_group("a.zarr").create_array("deep/words", data=np.array(["a", "b"]))
        else:
            with h5py.File("a.h5", "w") as file:
                file["deep/words"] = ["a", "b"]
        with pytest.raises(FormatError, match="'deep/words' in a.* cannot be converted: dtype"):
            js.convert(f"a.{SUFFIX[kind]}", "b.zarr")
        assert not (here / "b.zarr").exists()

    def test_npz_in(self):
        half = waves().astype("f2")
        np.savez(
            "a.npz", x=waves(), one=np.int8(3), **{"deep/half": half, "big": half.astype(">f4")}
        )
        done = js.convert("a.npz", "b.h5", chunk_rows=6)
        assert (done.kind, done.n_arrays) == ("arrays", 4)
        store = open_store("b.h5")
        assert same(store.read("x"), waves())
        assert store.spec("x").chunks == (6, 6)
        assert same(store.read("deep/half"), half)
        assert same(store.read("big"), half.astype("f4"))
        assert store.read("one") == 3

    @pytest.mark.parametrize(
        ("values", "words"),
        [(np.array([{}]), "Object arrays"), (np.array(["a"]), "cannot be stored")],
    )
    def test_npz_of_other_things_is_refused(self, here, values, words):
        np.savez("a.npz", x=values, allow_pickle=True)
        with pytest.raises(FormatError, match=words):
            js.convert("a.npz", "b.h5")
        (here / "c.npz").write_text("words")
        with pytest.raises(FormatError, match=r"c\.npz is no npz file"):
            js.convert("c.npz", "b.h5")
        assert not (here / "b.h5").exists()


class TestPieces:
    @pytest.mark.parametrize("shape", [(), (0, 3), (7,), (9, 5, 4), (1, 100, 3)])
    @pytest.mark.parametrize("piece_bytes", [1, 100, 10_000])
    def test_each_value_is_in_one_and_none_is_large(self, monkeypatch, shape, piece_bytes):
        monkeypatch.setattr(convert_arrays, "PIECE_BYTES", piece_bytes)
        chunks = tuple(min(max(n, 1), 4) for n in shape)
        spec = ArraySpec("x", shape, chunks, np.dtype("f8"), tuple(map(str, range(len(shape)))))
        seen = np.zeros(shape, int)
        for part in pieces(tuple(slice(0, n) for n in shape), spec):
            seen[part] += 1
            n_bytes = 8 * math.prod(cut.stop - cut.start for cut in part)
            assert n_bytes <= max(piece_bytes, 8 * math.prod(chunks))
            assert all(cut.start % n == 0 for cut, n in zip(part, chunks, strict=True))
        assert (seen == 1).all()

    def test_an_array_in_one_huge_piece_gets_chunks(self):
        whole = ArraySpec("x", (10**6, 10**4), (10**6, 10**4), np.dtype("f8"), ("a", "b"))
        found = fit_chunks(whole, chunk_rows=None)
        assert 8 * math.prod(found.chunks) <= convert_arrays.MOST_CHUNK_BYTES
        assert found.chunks[1] == 10**4
        assert fit_chunks(whole, chunk_rows=3).chunks == (3, 10**4)
