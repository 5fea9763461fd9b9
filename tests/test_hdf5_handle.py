"""Processes and threads that meet at one HDF5 file, and disks that end."""

import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import sys
import textwrap
import threading

import h5py
import numpy as np
import pytest
from arrays import ramp, spec
from hdf5_files import in_other_process, opened
from pairs import in_turn

from jaxstore.errors import BusyError
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.hdf5_file import open_file
from jaxstore.stores.hdf5_handle import FileHandle
from jaxstore.stores.results_hdf5_file import WriterAccess


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


@pytest.fixture
def store(path):
    store = HDF5Store.new(path)
    yield store
    store.close()


OPEN = """
import sys
from jaxstore.stores.hdf5 import HDF5Store
try:
    store = HDF5Store.open(sys.argv[1], mode=sys.argv[2])
    print(store.names())
except Exception as error:
    print(type(error).__name__, error)
"""


class TestLocks:
    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_a_writer_locks_out_other_processes_and_is_named(self, path, store, mode):
        before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
        found = in_other_process(OPEN, path, mode).stdout
        assert found.startswith("BusyError")
        assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in found
        assert "has not committed yet" in found or "open for writing" in found
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
        store.create(spec("x", (2,), (2,)))  # and the writer goes on

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_a_writer_that_is_no_store_locks_out_too(self, path, mode):
        with h5py.File(path, "x"):
            found = in_other_process(OPEN, path, mode).stdout
        assert "BusyError" in found
        assert "Another process has the file open for writing" in found

    def test_a_new_file_has_its_name_once_it_is_whole_and_locked(self, path, monkeypatch):
        # Else a reader that polls could open it first, and lock its own writer out.
        link = os.link
        found = []

        def watched(old, new):
            assert not path.exists()
            with open(old, "rb") as file:
                found.append(file.read(8))
                with pytest.raises(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            link(old, new)

        monkeypatch.setattr(os, "link", watched)
        HDF5Store.new(path).close()
        assert found == [b"\x89HDF\r\n\x1a\n"]
        assert [p.name for p in path.parent.iterdir()] == ["a.h5"]

    def test_a_file_system_without_hard_links_will_do(self, path, monkeypatch):
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no")))
        store = HDF5Store.new(path)
        store.create(spec("x", (2,), (2,)))
        assert in_other_process(OPEN, path, "r+").stdout.startswith("BusyError")
        store.close()
        assert [p.name for p in path.parent.iterdir()] == ["a.h5"]

    def test_a_disk_that_was_full_for_a_moment_will_do(self, path, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, "no room", str(path))

        with monkeypatch.context() as moment:
            moment.setattr(os, "link", full)
            with pytest.raises(OSError, match="no room") as caught:
                HDF5Store.new(path)
        assert caught.value.errno == errno.ENOSPC
        assert not list(path.parent.iterdir())
        HDF5Store.new(path).close()  # with another file, on the same inode perhaps
        assert [p.name for p in path.parent.iterdir()] == ["a.h5"]

    def test_a_file_system_without_locks_will_do(self, path, store, monkeypatch):
        store.create(spec("x", (2,), (2,)))
        store.write("x", (0,), ramp((2,)))
        store.close()
        monkeypatch.setattr(
            fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks"))
        )
        with opened(path) as reader:
            for _ in range(2):
                assert np.array_equal(reader.read("x"), ramp((2,)))
        with opened(path, mode="r+") as writer:
            writer.write("x", (0,), -ramp((2,)))
            writer.commit({})
        with opened(path) as reader:
            assert np.array_equal(reader.read("x"), -ramp((2,)))

    def test_a_second_writer_of_the_same_process_is_refused(self, path, store):
        with pytest.raises(BusyError, match="this process has the file open for writing"):
            HDF5Store.open(path, mode="r+")
        store.seal()
        with opened(path, mode="r+") as second:
            with pytest.raises(BusyError, match="this process"):
                store.set_attrs({"a": 1})
            second.set_attrs({"a": 2})

    def test_a_foreign_reader_that_stays_is_waited_for_and_then_named(
        self, path, store, monkeypatch
    ):
        monkeypatch.setattr("jaxstore.stores.hdf5_file._PATIENCE_S", 0.05)
        store.close()
        code = """
        import sys, h5py
        file = h5py.File(sys.argv[1])
        print("open", flush=True)
        sys.stdin.read()
        """
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as reader:
            assert reader.stdout.readline() == b"open\n"
            with pytest.raises(BusyError, match="open for reading"):
                HDF5Store.open(path, mode="r+")
            threading.Timer(0.02, reader.stdin.close).start()
            monkeypatch.setattr("jaxstore.stores.hdf5_file._PATIENCE_S", 60)
            HDF5Store.open(path, mode="r+").close()

    @pytest.mark.parametrize("mode", ["r", "r+"])
    def test_a_sealed_file_is_free(self, path, store, mode):
        store.create(spec("x", (2,), (2,)))
        store.seal()
        assert store.names() == ["x"]  # opens it again, but only for this
        assert in_other_process(OPEN, path, mode).stdout == "['x']\n"

    def test_a_reader_locks_out_no_writer_and_sees_what_it_wrote(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.write("x", (0,), ramp((2,)))
        store.close()
        with opened(path) as reader:
            assert reader.read("x").tolist() == [1, 2]
            code = """
            import sys
            import numpy as np
            from jaxstore.stores.hdf5 import HDF5Store
            store = HDF5Store.open(sys.argv[1], mode="r+")
            store.write("x", (0,), np.array([5, 6, 7], "f4"))
            store.resize("x", (3,))
            store.close()
            """
            assert in_other_process(code, path).returncode == 0
            assert reader.read("x").tolist() == [5, 6, 7]

    def test_a_reader_meets_a_writer_of_another_process(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.close()
        with opened(path) as reader:
            code = """
            import sys
            from jaxstore.stores.hdf5 import HDF5Store
            store = HDF5Store.open(sys.argv[1], mode="r+")
            print("open", flush=True)
            sys.stdin.read()
            """
            with subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as writer:
                assert writer.stdout.readline() == b"open\n"
                with pytest.raises(BusyError, match=rf"process {writer.pid} on .*not committed"):
                    reader.read("x")
                writer.stdin.close()
                writer.wait(60)
            assert reader.read("x").shape == (2,)

    def test_readers_and_a_writer_share_a_process(self, path, store):
        store.create(spec("x", (2,), (2,)))
        store.seal()
        with opened(path) as reader:
            assert np.isnan(reader.read("x")).all()
            store.write("x", (0,), ramp((2,)))
            assert reader.read("x").tolist() == [1, 2]
            store.write("x", (0,), -ramp((2,)))
            store.seal()
            assert in_other_process(OPEN, path, "r+").stdout == "['x']\n"
            assert reader.read("x").tolist() == [-1, -2]

    def test_threads_may_read_while_the_store_is_sealed_and_written(self, path, store):
        store.create(spec("x", (64,), (8,)))
        store.write("x", (0,), ramp((64,)))
        errors = []

        def read():
            try:
                for _ in range(100):
                    assert store.read("x").tolist() == ramp((64,)).tolist()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            store.write("x", (0,), ramp((64,)))
            store.seal()
        for thread in threads:
            thread.join()
        assert errors == []

    def test_readers_in_threads_beside_a_writer_upset_no_object_of_h5py(
        self, path, store, monkeypatch
    ):
        # HDF5 flushes a file that is open more than once when an object of it is let go, which
        # failed in the midst of a visit to all its names, and was printed, not raised.
        problems = []
        monkeypatch.setattr(sys, "unraisablehook", lambda found: problems.append(found.exc_value))
        for i in range(6):
            store.create(spec(f"g/x{i}", (1, 0), (1, 8)))
        store.commit({"n": 0})
        is_done = threading.Event()

        def read():
            try:
                while not is_done.is_set():
                    reader = store.reader()
                    n = reader.committed()["n"]
                    assert reader.names() == [f"g/x{i}" for i in range(6)]
                    for name in reader.names():
                        assert reader.read(name)[0, :n].tolist() == [*range(n)]
                    reader.close()
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(0, 160, 8):
            for i in range(6):
                store.write(f"g/x{i}", (0, n), np.arange(n, n + 8, dtype="f4")[None])
                store.resize(f"g/x{i}", (1, n + 8))
            store.commit({"n": n + 8})
            if n % 32 == 0:
                store.seal()
        is_done.set()
        for thread in threads:
            thread.join()
        assert problems == []


def lock_of(path):
    """What others find: a file that is "free", "shared" by readers, or "taken" by a writer."""
    with path.open("rb") as file:
        for how, found in ((fcntl.LOCK_EX, "free"), (fcntl.LOCK_SH, "shared")):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, how | fcntl.LOCK_NB)
                return found
    return "taken"


def write_number(path, n, **keywords):
    """As results are written: past what HDF5 has open of the file in this process."""
    with contextlib.closing(WriterAccess(path, claim="n", durable=False, **keywords)) as access:
        with access.writing() as opened:
            opened.root.attrs.modify("n", np.int64(n))
        access.commit()


class TestReadersOfOneProcess:
    @pytest.fixture
    def readers(self, path):
        with h5py.File(path, "x") as file:
            file.attrs["n"] = np.int64(1)
        handles = [FileHandle.open(path, is_writable=False) for _ in range(2)]
        yield handles
        for handle in handles:
            handle.close()

    def test_the_lock_stays_until_the_last_of_them_has_left(self, path, readers):
        a, b = readers
        with a.reading():
            with b.reading():
                pass
            assert lock_of(path) == "shared"
            FileHandle.open(path, is_writable=False)
            assert lock_of(path) == "shared"
        assert lock_of(path) == "free"

    def test_one_locks_a_file_that_another_has_at_rest(self, path, readers):
        a, b = readers
        b.release()
        with a.reading():
            pass
        with b.reading():
            assert lock_of(path) == "shared"

    def test_they_leave_a_writer_its_lock(self, path, readers):
        a, b = readers
        writer = FileHandle.open(path, is_writable=True)
        with writer.writing() as opened:
            opened.root.attrs["n"] = np.int64(2)
        for reader in (a, b, a):
            with reader.reading() as opened:
                assert opened.root.attrs["n"] == 2
            assert lock_of(path) == "taken"
        writer.close()
        assert lock_of(path) == "free"

    def test_none_comes_in_while_a_writer_waits_for_another(self, path, readers, monkeypatch):
        a, b = readers
        is_waiting, is_in = threading.Event(), threading.Event()
        release, order = a.release, []

        def noted():
            is_waiting.set()
            release()

        def write():
            with contextlib.closing(FileHandle.open(path, is_writable=True)):
                order.append("writer")

        def read():
            with b.reading():
                order.append("reader")
                is_in.set()

        monkeypatch.setattr(a, "release", noted)
        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        with a.reading():
            threads[0].start()
            assert is_waiting.wait(60)
            threads[1].start()
            assert not is_in.wait(0.1)
        for thread in threads:
            thread.join()
        assert order == ["writer", "reader"]

    def test_one_that_comes_beside_old_ones_sees_the_file_of_now(self, path, readers, monkeypatch):
        opening = []

        def late(*given):
            if not opening:  # after it has looked how old the others are
                opening.append(given)
                write_number(path, 2)
            return open_file(*given)

        readers[1].release()
        monkeypatch.setattr("jaxstore.stores.hdf5_handle.open_file", late)
        with readers[1].reading() as opened:
            assert opened.root.attrs["n"] == 2
        with readers[0].reading() as opened:
            assert opened.root.attrs["n"] == 2
        assert opening

    def test_one_at_rest_sees_a_change_that_leaves_the_time_as_it_was(self, path, readers):
        before = path.stat().st_mtime_ns
        write_number(path, 2, tells_epoch=False)
        assert path.stat().st_mtime_ns == before
        with readers[0].reading() as opened:
            assert opened.root.attrs["n"] == 2


FILL_DISK = """
import errno, sys
import numpy as np
from jaxstore.errors import BusyError
from jaxstore.stores.base import ArraySpec
from jaxstore.stores.hdf5 import HDF5Store
rows, compression, action = int(sys.argv[2]), sys.argv[3], sys.argv[4]
if compression == "gzip":  # which HDF5 encodes and writes only when it flushes
    import h5py
    with h5py.File(sys.argv[1], "x") as file:
        for name in "abc":
            options = dict(chunks=(rows, 1000), maxshape=(None, None), compression="gzip")
            file.create_dataset(name, (0, 1000), "f4", **options)
    store = HDF5Store.open(sys.argv[1], mode="r+")
else:
    made = None if compression == "None" else compression
    store = HDF5Store.new(sys.argv[1], compression=made)
    for name in "abc":
        dims = ("draw", "i")
        store.create(ArraySpec(name, (0, 1000), (rows, 1000), np.dtype("f4"), dims))
values = np.random.default_rng(0).normal(size=(rows, 1000)).astype("f4")
n, step = 0, "write"
try:
    while True:
        step = "write"
        for name in "abc":
            store.write(name, (n, 0), values)
            store.resize(name, (n + rows, 1000))
        step = "commit"
        store.commit({"n": n + rows})
        n += rows
except OSError as error:
    assert error.errno == errno.ENOSPC, error
for call in (store.names, store.seal, lambda: store.read("a"), lambda: store.commit({})):
    try:
        call()
    except BusyError as error:
        assert "earlier write failed" in str(error) and "space" in str(error), error
    else:
        assert step == "commit", call  # the record did not fit, the file is sound
        break
if action == "close":
    store.close()
    store.close()
print(n)
"""


class TestFullDisk:
    @pytest.mark.parametrize(
        ("rows", "compression", "action"),
        in_turn([1, 16, 64], [None, "zstd", "gzip"], ["close", "leave"], every=3),
    )
    def test_a_full_disk_is_enospc_and_the_committed_rows_are_there(
        self, disk, rows, compression, action
    ):
        done = in_other_process(FILL_DISK, disk / "a.h5", rows, compression, action)
        assert done.returncode == 0, done.stderr
        n = int(done.stdout)
        assert n > 200
        with opened(disk / "a.h5") as store:
            assert store.committed()["n"] == n
            for name in "abc":
                found = store.read(name, (slice(0, n),))
                assert found.shape == (n, 1000)
                assert not np.isnan(found).any()

    def test_an_error_of_hdf5_ends_the_handle(self, path, monkeypatch):
        store = HDF5Store.new(path)
        store.create(spec("x", (2, 4), (2, 4)))
        store.commit({"n": 0})

        def fail(*_):
            raise RuntimeError("Unable to flush (errno = 28, error message = 'No space left')")

        with monkeypatch.context() as patch:
            patch.setattr(h5py.File, "flush", fail)
            with pytest.raises(OSError, match="No space left") as caught:
                store.commit({"n": 1})
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(BusyError, match=r"No space left.*open it again"):
            store.write("x", (0, 0), ramp((2, 4)))
        store.close()
        with opened(path, mode="r+") as again:
            assert again.committed() == {"n": 0}
            assert again.names() == ["x"]

    def test_an_error_ends_an_adopted_handle_and_leaves_the_file(self, path, monkeypatch):
        with h5py.File(path, "w") as file:
            store = HDF5Store.adopt(file)

            def fail(*_):
                raise RuntimeError("broken")

            with monkeypatch.context() as patch:
                patch.setattr(h5py.File, "flush", fail)
                with pytest.raises(RuntimeError, match="broken"):
                    store.commit({"n": 1})
            with pytest.raises(BusyError, match="broken"):
                store.names()
            store.close()
            file["mine"] = 1
