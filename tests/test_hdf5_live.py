"""HDF5 files that are read while another process writes them: always a prefix, never an error."""

import contextlib
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest
from arrays import ramp, spec
from hdf5_files import made, opened

import jaxstore as js
from jaxstore.errors import BusyError, FormatError, MissingError
from jaxstore.stores.hdf5 import HDF5Store

SCAN = """
import sys, time
import jax, jax.numpy as jnp
import jaxstore as js

def step(x, i):
    jax.debug.callback(lambda _: time.sleep(0.008), i)
    return x + 1, {"x": x, "low": x[:2].astype(jnp.bfloat16), "n": i}

with js.HDF5Collector(sys.argv[1], chunk_draws=4, coords={"low_dim_0": ["a", "b"]}) as collector:
    js.scan(step, jnp.zeros(7), xs=jnp.arange(int(sys.argv[2])), collector=collector,
            buffer_draws=4, progress=False)
"""


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def draws_of(path):
    """Committed draws, once all of them were compared with what they have to be."""
    with js.open_run(path) as run:
        n = int(run.sample_count.max(initial=0))
        if n:
            assert run.iteration.tolist() == [list(range(n))]
            assert np.asarray(run.samples["n"]).tolist() == [list(range(n))]
            wanted = np.repeat(np.arange(n, dtype="f4")[:, None], 7, axis=1)
            assert np.asarray(run.samples["x"])[0].tobytes() == wanted.tobytes()
            low = np.asarray(run.samples["low"])[0]
            assert low.tobytes() == wanted[:, :2].astype(low.dtype).tobytes()
        return n, run.state


class TestRun:
    @pytest.mark.parametrize("is_killed", [False, True])
    def test_a_run_is_a_growing_prefix_for_its_whole_length(self, tmp_path, is_killed):
        # One that is to be killed has far to go, so that it never ends before it is.
        path, n_steps = tmp_path / "run.h5", 10_000 if is_killed else 200
        seen = []
        with start(SCAN, path, n_steps) as writer:
            is_last = False
            while not is_last:
                is_last = writer.poll() is not None
                try:
                    seen.append(draws_of(path))
                except (MissingError, BusyError):
                    assert not seen  # before the first commit alone
                if is_killed and seen and seen[-1][0] >= 66:
                    writer.send_signal(signal.SIGKILL)
                    is_killed, is_last = False, writer.wait() is None
            errors = writer.stderr.read()
        counts = [n for n, _ in seen]
        assert counts == sorted(counts)
        assert len(set(counts)) > 2  # of more, a busy machine may look too seldom
        if writer.returncode == 0:
            assert seen[-1] == (n_steps, "complete")
            left = {p.name for p in tmp_path.iterdir()}
            assert left <= {"run.h5", "run.h5.checkpoint-0", "run.h5.checkpoint-1"}
            with h5py.File(path) as file:
                assert file["samples/n"][0].tolist() == list(range(n_steps))
        else:
            assert writer.returncode == -signal.SIGKILL, errors
            assert 66 <= seen[-1][0] < n_steps
            assert seen[-1][1] == "running"


WRITER = """
import sys, time
import numpy as np
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5 import HDF5Store

def spec(name, shape, chunks):
    return ArraySpec(name, shape, chunks, np.dtype("f4"), ("chain", "draw"))

def rows(n, first=0):
    return np.arange(first, first + n, dtype="f4")[None]

def ask(word):
    print(word, flush=True)
    sys.stdin.readline()

def grow(store, first, n):
    store.write("g/x", (0, first), rows(n, first))
    store.resize("g/x", (1, first + n))
    store.commit({"n": first + n})
"""


@contextlib.contextmanager
def writer(path, code):
    """Another process that stops at each `ask`; gives a call that lets it go to the next."""
    with start(WRITER + textwrap.dedent(code), path) as process:

        def go(word):
            if go.is_begun:
                process.stdin.write("\n")
                process.stdin.flush()
            go.is_begun = True
            assert process.stdout.readline() == word + "\n", process.stderr.read()

        go.is_begun = False
        go.process = process
        try:
            yield go
        finally:
            process.kill()


class TestWriter:
    def test_a_reader_sees_each_commit_and_nothing_beyond(self, tmp_path):
        path = tmp_path / "a.h5"
        code = """
        store = HDF5Store.new(sys.argv[1])
        ask("made")
        store.set_attrs({"run": {"a": None}}, "g")
        store.create(spec("g/x", (1, 0), (1, 8)))
        store.create_labels("g/city", ["Zürich", "b"])
        grow(store, 0, 16)
        ask("first")
        store.write("g/x", (0, 16), -rows(16))
        store.resize("g/x", (1, 32))
        store.create(spec("g/y", (1, 0), (1, 8)))
        store.set_attrs({"more": 1})
        ask("not committed")
        store.commit({"n": 32})
        ask("second")
        store.seal()
        ask("sealed")
        grow(store, 32, 8)
        ask("third")
        store.close()
        ask("closed")
        """
        with writer(path, code) as go:
            go("made")
            with pytest.raises(BusyError, match=rf"process {go.process.pid} .*not committed yet"):
                HDF5Store.open(path)
            go("first")
            with opened(path) as reader:
                first = np.arange(16.0)[None]
                for step in ("", "not committed"):
                    if step:
                        go(step)
                    assert reader.committed() == {"n": 16}
                    assert reader.names() == ["g/x"]
                    assert reader.spec("g/x") == spec("g/x", (1, 16), (1, 8))
                    assert reader.read("g/x").tolist() == first.tolist()
                    assert reader.read("g/x", (slice(0, 1), slice(7, 9))).tolist() == [[7, 8]]
                    assert reader.attrs("g") == {"run": {"a": None}}
                    assert reader.attrs() == {}
                    assert reader.labels("g/city") == ["Zürich", "b"]
                    assert reader.labels("g/x") is None
                    assert [*reader.damage("g/x", ())] == []
                    with pytest.raises(MissingError, match=r"'g/y'.*'g/x'"):
                        reader.read("g/y")
                go("second")
                assert reader.committed() == {"n": 32}
                assert reader.names() == ["g/x", "g/y"]
                assert reader.read("g/y", is_strict=True).shape == (1, 0)
                assert reader.attrs() == {"more": 1}
                both = np.concatenate([first, -np.arange(16.0)[None]], axis=1)
                assert reader.read("g/x", is_strict=True).tolist() == both.tolist()
                go("sealed")
                assert reader.read("g/x").tolist() == both.tolist()
                assert reader.committed() == {"n": 32}
                go("third")
                assert reader.committed() == {"n": 40}
                assert reader.read("g/x")[0, 30:].tolist() == [-14, -15, *range(32, 40)]
                go("closed")
                assert reader.committed() == {"n": 40}
                assert reader.read("g/x").shape == (1, 40)

    def test_after_a_kill_and_beside_the_next_writer_the_commit_is_there(self, tmp_path):
        path = tmp_path / "a.h5"
        first = """
        store = HDF5Store.new(sys.argv[1])
        store.create(spec("g/x", (1, 0), (1, 8)))
        grow(store, 0, 16)
        store.write("g/x", (0, 16), -rows(8))
        ask("first")
        """
        second = """
        store = HDF5Store.open(sys.argv[1], mode="r+")
        ask("open")
        store.resize("g/x", (1, 12))
        ask("cut")
        grow(store, 12, 10)
        ask("grown")
        """
        with writer(path, first) as go:
            go("first")
            reader = HDF5Store.open(path)
            assert reader.read("g/x").tolist() == [[*range(16)]]
            go.process.kill()
            go.process.wait()
            assert reader.committed() == {"n": 16}
            assert reader.read("g/x")[0, :16].tolist() == [*range(16)]
        with writer(path, second) as go:
            go("open")
            assert reader.committed() == {"n": 16}
            assert reader.read("g/x")[0, :16].tolist() == [*range(16)]
            go("cut")  # what the old record counts is no more, and the new one is not there yet
            with pytest.raises(BusyError, match="is being written again"):
                reader.read("g/x")
            go("grown")
            assert reader.committed() == {"n": 22}
            assert reader.read("g/x").tolist() == [[*range(22)]]
        reader.close()

    def test_rewritten_chunks_are_read_as_before_or_after(self, tmp_path):
        path = tmp_path / "a.h5"
        code = """
        store = HDF5Store.new(sys.argv[1], compression="zstd")
        store.create(spec("g/x", (4, 4096), (1, 4096)))
        store.create(spec("other", (1, 300), (1, 1)))
        for n in range(300):
            if n == 1:
                ask("first")
            store.write("g/x", (0, 0), np.full((4, 4096), 2**n if n < 99 else n, "f4"))
            store.write("other", (0, n), rows(1, n))  # into what became free
            store.commit({"n": n})
            time.sleep(0.003)
            if n % 50 == 49:
                store.seal()
        store.close()
        """
        with writer(path, code) as go:
            go("first")
            go.process.stdin.write("\n")
            go.process.stdin.flush()
            seen = []
            with opened(path) as reader:
                while go.process.poll() is None:
                    n = reader.committed()["n"]
                    found = reader.read("g/x", is_strict=True)
                    # A chunk is the one of a commit; which of two it is, is not promised here.
                    assert (found == found[:, :1]).all()
                    seen.append(n)
                assert reader.committed() == {"n": 299}
                assert (reader.read("g/x") == 299).all()
            assert go.process.returncode == 0, go.process.stderr.read()
            assert len(set(seen)) > 5
            assert seen == sorted(seen)

    def test_damage_under_a_live_writer_is_named(self, tmp_path):
        path = tmp_path / "a.h5"
        code = """
        store = HDF5Store.new(sys.argv[1])
        store.create(spec("g/x", (1, 0), (1, 8)))
        grow(store, 0, 16)
        store.resize("g/x", (1, 24))
        store.commit({"n": 24})
        ask("first")
        """
        with writer(path, code) as go:
            go("first")
            lines = (tmp_path / "a.h5.chunks").read_text().splitlines()
            place = next(line for line in lines if line.startswith('["g/x",[0,1],'))
            offset = int(place.split(",")[3])
            data = bytearray(path.read_bytes())
            data[offset + 20] ^= 1
            with path.open("r+b") as file:
                file.write(data)
            with opened(path) as reader:
                with pytest.raises(FormatError, match=r"'g/x' in .*chunk \(0, 1\) is damaged"):
                    reader.read("g/x")
                damaged, absent = reader.damage("g/x", ())
                assert damaged.startswith("chunk (0, 1) is damaged")
                assert absent == "chunk (0, 2) is absent"
                assert np.isnan(reader.read("g/x", (slice(0, 1), slice(16, 24)))).all()
                with pytest.raises(FormatError, match=r"chunk \(0, 2\) is absent"):
                    reader.read("g/x", (slice(0, 1), slice(16, 24)), is_strict=True)

    def test_what_only_hdf5_can_read_has_to_wait(self, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("packed", (8,), "f4", chunks=(4,), compression="gzip")
            file["packed"][:] = ramp((8,))
        code = """
        store = HDF5Store.open(sys.argv[1], mode="r+")
        store.create(spec("g/x", (1, 0), (1, 8)))
        grow(store, 0, 16)
        ask("first")
        store.close()
        ask("closed")
        """
        with writer(path, code) as go:
            go("first")
            with opened(path) as reader:
                assert reader.names() == ["g/x", "packed"]
                assert reader.read("g/x").shape == (1, 16)
                with pytest.raises(BusyError, match=r"'packed' in .*only HDF5 can read"):
                    reader.read("packed")
                go("closed")
                assert reader.read("packed").tolist() == ramp((8,)).tolist()


class TestCost:
    def test_where_telling_fails_the_writer_goes_on(self, tmp_path, monkeypatch):
        path = tmp_path / "a.h5"
        with made(path) as store:
            store.create(spec("x", (1, 0), (1, 8)))

            def fail(*_):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("jaxstore.stores.hdf5_live_writer.ChunkLog", fail)
            store.write("x", (0, 0), ramp((1, 8)))
            store.resize("x", (1, 8))
            store.commit({"n": 8})
            assert {p.name for p in tmp_path.iterdir()} == {"a.h5", "a.h5.commit.json"}
            store.seal()
        with opened(path) as reader:
            assert reader.committed() == {"n": 8}
            assert reader.read("x").tolist() == ramp((1, 8)).tolist()

    def test_readers_in_threads_of_the_writers_process_see_all(self, tmp_path):
        path = tmp_path / "a.h5"
        with made(path) as store:
            store.create(spec("x", (1, 8), (1, 8)))
            store.commit({"n": 8})
            with opened(path) as reader:
                store.write("x", (0, 0), ramp((1, 8)))
                assert reader.read("x").tolist() == ramp((1, 8)).tolist()
