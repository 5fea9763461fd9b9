"""Runs as rows: complete, while they are written, and after a kill."""

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import obstore.store
import pytest
import zarr
from row_sources import rows_of

import jaxstore as js
from jaxstore.sources.fetch import chunks_along
from jaxstore.sources.fetch_hdf5_direct import ChunkedRows
from jaxstore.sources.fetch_memory import MemoryRows
from jaxstore.sources.fetch_run import FirstRows, open_run_arrays
from jaxstore.sources.fetch_store import StoreRows
from jaxstore.sources.fetch_zarr import ZarrSource
from jaxstore.sources.geometry import ArrayGeometry
from jaxstore.sources.opening import open_arrays
from jaxstore.stores.location import open_store
from jaxstore.stores.memory import MemoryStore


def step(x, i):
    key = jax.vmap(jax.random.key)(x[:, 0].astype(int))
    sample = {"x": x, "low": x.astype("bfloat16"), "deep": {"n": i * jnp.arange(2), "key": key}}
    return x + 1, sample


def saved(collector, n=300, *, function=step, **options):
    x = jnp.arange(6.0).reshape(2, 3)
    return js.scan(function, x, jnp.arange(n), chains=2, collector=collector, progress=False,
                   **options)[1]  # fmt: skip


def draws_of(run, name, n=None):
    leaf = next(leaf for leaf in run.leaves if leaf.name == name)
    return np.moveaxis(np.asarray(leaf.plain()[:, :n]), 1, 0)


def assert_rows(source, wanted):
    rows = rows_of(source)
    assert (rows.shape, rows.dtype) == (wanted.shape, wanted.dtype)
    assert rows.tobytes() == np.ascontiguousarray(wanted).tobytes()


COLLECTORS = {
    "zarr": lambda tmp: js.ZarrCollector(tmp / "run.zarr"),
    "hdf5": lambda tmp: js.HDF5Collector(tmp / "run.h5"),
    "memory": lambda tmp: js.MemoryCollector(),
}
WAYS = {"zarr": ZarrSource, "hdf5": ChunkedRows, "memory": MemoryRows}


@pytest.fixture(scope="module", params=COLLECTORS)
def complete(request, tmp_path_factory):
    """A complete run and its format."""
    return saved(COLLECTORS[request.param](tmp_path_factory.mktemp("runs"))), request.param


class TestComplete:
    def test_every_leaf_has_the_draws_as_rows(self, complete):
        run, kind = complete
        places = [run] if kind == "memory" else [run, run.location]
        for where in places:
            sources = open_arrays(where)
            assert list(sources) == [leaf.name for leaf in run.leaves]
            for name, source in sources.items():
                assert isinstance(source, WAYS[kind])
                assert_rows(source, draws_of(run, name))

    def test_steps_and_leaves_are_named_with_or_without_their_group(self, complete):
        run, _ = complete
        sources = open_arrays(run, ["x", "samples/deep/n", "iteration"])
        assert_rows(sources["x"], draws_of(run, "samples/x"))
        assert_rows(sources["samples/deep/n"], draws_of(run, "samples/deep/n"))
        assert_rows(sources["iteration"], run.iteration.T)

    def test_a_missing_leaf_lists_those_there_are(self, complete):
        with pytest.raises(js.MissingError, match="no 'y' in the run at .*'samples/x'"):
            open_arrays(complete[0], ["y"])

    def test_another_axis_than_that_of_the_draws_is_refused(self, complete):
        with pytest.raises(ValueError, match="axis is 2, but the rows of a run are its draws"):
            open_arrays(complete[0], axis=2)

    def test_a_leaf_is_a_place(self, complete):
        run, _ = complete
        leaf = run.leaves[-1]
        assert_rows(open_arrays(leaf)[leaf.name], draws_of(run, leaf.name))

    def test_some_chains_of_a_leaf_are_a_place_too(self, complete):
        run, _ = complete
        for leaf in run.leaves:
            wanted = draws_of(run, leaf.name)
            assert_rows(open_arrays(leaf.of_chain(1))[leaf.name], wanted[:, 1])
            assert_rows(open_arrays(leaf.of_chains((1, 0)))[leaf.name], wanted[:, ::-1])

    def test_rows_are_no_more_than_the_run_had_when_it_was_opened(self, complete):
        run, kind = complete
        store = run.leaves[0].store
        source = open_run_arrays(store, ["x"], draws=[77, 300])["x"]
        assert isinstance(source, MemoryRows if kind == "memory" else FirstRows)
        assert_rows(source, draws_of(run, "samples/x", 77))

    def test_handles_of_its_libraries_are_places(self, complete):
        run, kind = complete
        with contextlib.ExitStack() as stack:
            if kind == "memory":
                where = run.leaves[0].store
            elif kind == "hdf5":
                where = stack.enter_context(h5py.File(run.location))
            else:
                where = zarr.open_group(run.location, mode="r")
            source = open_arrays(where, ["samples/x"])["samples/x"]
            assert isinstance(source, WAYS[kind])
            assert_rows(source, draws_of(run, "samples/x"))


class WholeChunks:
    """A source that, as the contract says, wants all rows of a chunk and writes only its part."""

    def __init__(self, values, chunks):
        self.values = values
        self.geometry = ArrayGeometry("x", values.shape, chunks, values.dtype, 1)

    def stored_chunks(self, chunk):
        return chunks_along(self.geometry, chunk)

    def read(self, index, rows):
        span = self.geometry.samples_in_chunk(index[1])
        assert rows.shape == (len(span), *self.geometry.inner_shape)
        cuts = [slice(i * c, (i + 1) * c) for i, c in zip(index, self.geometry.chunks, strict=True)]
        rows[:, cuts[0], cuts[2]] = np.moveaxis(self.values[tuple(cuts)], 1, 0)
        return 1


@pytest.mark.parametrize("n_rows", [1, 7, 8, 9, 20])
def test_the_first_rows_of_a_source_are_cut_from_whole_chunks(n_rows):
    values = np.arange(4.0 * 20 * 5).reshape(4, 20, 5)
    source = WholeChunks(values, (2, 8, 3))
    geometry = ArrayGeometry("x", (4, n_rows, 5), (2, 8, 3), values.dtype, 1)
    assert_rows(FirstRows(geometry, source), np.moveaxis(values[:, :n_rows], 1, 0))


@pytest.mark.parametrize("place", [obstore.store.MemoryStore, zarr.storage.MemoryStore])
def test_a_run_in_a_store_without_a_path_is_read_through_the_run_and_the_handle(place):
    where = place()
    run = saved(js.ZarrCollector(where), 40)
    for found in (open_arrays(where), open_arrays(run)):
        assert_rows(found["samples/x"], draws_of(run, "samples/x"))


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_chains_of_unequal_length_give_as_many_rows_as_the_shortest(kind, tmp_path):
    collector = COLLECTORS[kind](tmp_path)
    init, save, postprocess = js.save(collector)

    @jax.jit
    def sample(last):
        def body(state, i):
            return save(state, i < last, {"x": i + 100 * last})

        return jax.lax.scan(body, init({"x": jnp.int32(0)}), jnp.arange(30))[0]

    postprocess(jax.vmap(sample)(jnp.array([30, 19])), None)
    collector.close()
    run = js.open_run(tmp_path / ("run.zarr" if kind == "zarr" else "run.h5"))
    assert run.sample_count.tolist() == [30, 19]
    wanted = np.stack([np.arange(19) + 3000, np.arange(19) + 1900], axis=1).astype(np.int32)
    for where in (run, run.location):
        source = open_arrays(where)["samples/x"]
        assert isinstance(source, FirstRows)
        assert_rows(source, wanted)


WRITER = """
import sys, jax, jax.numpy as jnp, jaxstore as js
sys.path.insert(0, sys.argv[2])
from test_fetch_run import saved, step

def waiting(x, i):
    jax.debug.callback(lambda i: sys.stdin.readline() if i == 210 else None, i)
    return step(x, i)

kind = js.HDF5Collector if sys.argv[1].endswith("h5") else js.ZarrCollector
saved(kind(sys.argv[1], chunk_draws=16), function=waiting, buffer_draws=16)
"""


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    """Paths of two runs that wait at step 210 of 300, and their processes."""
    folder = tmp_path_factory.mktemp("living")
    processes = {}
    for name in ("run.zarr", "run.h5"):
        command = [
            sys.executable,
            "-c",
            WRITER,
            str(folder / name),
            str(Path(__file__).parent),
        ]
        processes[folder / name] = subprocess.Popen(command, stdin=subprocess.PIPE)
    watchdog = threading.Timer(120, lambda: [p.kill() for p in processes.values()])
    watchdog.start()
    yield processes
    watchdog.cancel()
    for process in processes.values():
        process.kill()
        process.wait()
        process.stdin.close()


@pytest.fixture(scope="module")
def wanted():
    return saved(js.MemoryCollector())


def opened_once_committed(path, process):
    while True:
        with contextlib.suppress(js.MissingError, js.BusyError, js.FormatError):
            return open_arrays(path)
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_run_is_read_while_it_is_written_and_after_a_kill(living, wanted, suffix):
    path, process = next(item for item in living.items() if item[0].suffix == suffix)
    sources = opened_once_committed(path, process)
    lengths = {source.geometry.n_samples for source in sources.values()}
    assert len(lengths) == 1
    n_rows = lengths.pop()
    assert n_rows < 210
    for name, source in sources.items():
        assert isinstance(source, (FirstRows, ZarrSource) if suffix == ".zarr" else StoreRows)
        assert_rows(source, draws_of(wanted, name, n_rows))
    run = js.open_run(path)
    for where in (run, run.leaves[0], run.leaves[0].of_chain(0)):
        assert next(iter(open_arrays(where).values())).geometry.n_samples >= n_rows
    process.send_signal(signal.SIGKILL)
    process.wait()
    for name, source in sources.items():  # opened before the kill
        assert_rows(source, draws_of(wanted, name, n_rows))
    for name, source in open_arrays(path).items():
        n_killed = source.geometry.n_samples
        assert n_rows <= n_killed <= run.refresh().sample_count.min()
        assert_rows(source, draws_of(wanted, name, n_killed))


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_run_of_this_process_is_read_while_it_is_written(kind, tmp_path, wanted):
    reached, go_on = threading.Event(), threading.Event()

    def wait(i):
        if i == 210:
            reached.set()
            go_on.wait(60)

    def waiting(x, i):
        jax.debug.callback(wait, i)
        return step(x, i)

    path = tmp_path / ("run.zarr" if kind == "zarr" else "run.h5")
    maker = js.ZarrCollector if kind == "zarr" else js.HDF5Collector
    options = {"function": waiting, "buffer_draws": 16}
    writer = threading.Thread(
        target=lambda: saved(maker(path, chunk_draws=16), **options), daemon=True
    )
    writer.start()
    assert reached.wait(60)
    try:
        while True:
            with contextlib.suppress(js.MissingError, js.BusyError, js.FormatError):
                source = open_arrays(path, ["x"])["x"]
                break
        n_rows = source.geometry.n_samples
        assert_rows(source, draws_of(wanted, "samples/x", n_rows))
    finally:
        go_on.set()
        writer.join(60)
    assert_rows(source, draws_of(wanted, "samples/x", n_rows))  # still the rows of before
    assert open_arrays(path, ["x"])["x"].geometry.n_samples == 300


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        saved(js.ZarrCollector(tmp_path / "run.zarr", chunk_draws=16), 40)
        return tmp_path / "run.zarr"

    def change(self, path, change):
        store = open_store(path, mode="r+")
        manifest = store.attrs()["jaxstore"]
        change(manifest)
        store.set_attrs({"jaxstore": manifest})
        store.close()

    def test_a_chunk_that_counts_and_is_absent_is_an_error_without_strict(self, path):
        (path / "samples/x/c/0/1/0").unlink()
        with pytest.raises(js.FormatError, match=r"'samples/x' in .*chunk \(0, 1, 0\)"):
            rows_of(open_arrays(path, is_strict=False)["samples/x"])

    def test_a_newer_format_is_refused(self, path):
        self.change(path, lambda manifest: manifest.update(format_version=3))
        with pytest.raises(js.FormatError, match="run format 3, this jaxstore reads up to 2"):
            open_arrays(path)

    def test_a_manifest_that_is_none_is_refused(self, path):
        self.change(path, lambda manifest: manifest.update(leaves=3))
        with pytest.raises(js.FormatError, match="manifest of .* is damaged.*Restore"):
            open_arrays(path)

    def test_an_array_that_is_not_as_the_manifest_says_is_refused(self, path):
        shutil.rmtree(path / "samples/x")
        shutil.copytree(path / "samples/deep/n", path / "samples/x")
        with pytest.raises(js.FormatError, match=r"draws of float32\[3\], the array has int32\[\]"):
            open_arrays(path)

    def test_a_run_without_draws_is_refused_until_it_has_some(self, path):
        store = open_store(path, mode="r+")
        store.commit({**store.committed(), "draws": [0, 40]})
        store.close()
        with pytest.raises(js.BusyError, match="no draw of every chain in its arrays yet"):
            open_arrays(path)

    def test_a_run_that_has_only_begun_has_no_arrays_yet(self):
        store = MemoryStore()
        leaf = {"name": "samples/x", "shape": [], "dtype": "float32"}
        manifest = {"kind": "run", "format_version": 2, "groups": ["samples"], "leaves": [leaf]}
        store.set_attrs({"jaxstore": manifest})
        with pytest.raises(js.BusyError, match="has committed nothing yet"):
            open_arrays(store)
        store.commit({"draws": [0, 0]})
        with pytest.raises(js.BusyError, match="no draw of every chain in its arrays yet"):
            open_arrays(store)

    @pytest.mark.parametrize("draws", [None, [3, "a"], [-1, 2]])
    def test_a_record_that_is_none_is_refused(self, path, draws):
        store = open_store(path, mode="r+")
        store.commit({**store.committed(), "draws": draws})
        store.close()
        with pytest.raises(js.FormatError, match="commit record of .* is damaged"):
            open_arrays(path)
