"""Failures arrive as themselves, and what came before them is readable."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from collecting import ListCollector
from pairs import in_turn

import jaxstore as js
from jaxstore import interrupt

STEPS = 4000


class DiskTrouble(OSError):
    """An exception of the test's own."""


class FailingCollector(ListCollector):
    """Raises at the 4th draw."""

    def save(self, chain_id, values):
        if len(self.draws[chain_id]) == 3:
            raise DiskTrouble("no more room for draws")
        super().save(chain_id, values)


def one_device(init_save, save):
    def run():
        state = init_save(jnp.int32(0))
        return jax.lax.scan(lambda s, i: save(s, True, i), state, jnp.arange(STEPS))[0]

    return jax.jit(run)


def two_devices(init_save, save):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    def local(c):
        def one(c):
            state = init_save(jnp.int32(0), chain=c)
            return jax.lax.scan(lambda s, i: save(s, True, i), state, jnp.arange(STEPS))[0]

        return jax.vmap(one)(c)

    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    return lambda: run(jnp.arange(2, dtype=jnp.int32))


PROGRAMS = {"one device": one_device, "shard_map": two_devices}


@pytest.mark.parametrize("place", PROGRAMS)
def test_a_collectors_exception_reaches_the_caller_and_the_next_run_works(place):
    collector = FailingCollector()
    saving = js.save(collector, buffer_draws=2)
    with pytest.raises(DiskTrouble, match="no more room"), saving as (init_save, save, finish):
        finish(jax.block_until_ready(PROGRAMS[place](init_save, save)()))
    for draws in collector.draws.values():
        assert [int(d[0]) for d in draws] == list(range(len(draws)))
    assert max(map(len, collector.draws.values())) == 3

    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=64)
    saved = postprocess_save(PROGRAMS[place](init_save, save)())
    assert np.asarray(saved["samples"]).reshape(-1, STEPS)[0].tolist() == list(range(STEPS))


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
@pytest.mark.parametrize("place", PROGRAMS)
def test_a_failing_store_raises_its_own_error_and_keeps_what_was_committed(
    place, kind, tmp_path, monkeypatch
):
    path = tmp_path / f"run.{kind}"
    make = js.ZarrCollector if kind == "zarr" else js.HDF5Collector
    collector = make(path, chunk_draws=8)
    init_save, save, postprocess_save = js.save(collector, buffer_draws=8)
    fail_after(monkeypatch, kind, writes=40)
    run = PROGRAMS[place](init_save, save)
    with pytest.raises(DiskTrouble), collector:
        postprocess_save(jax.block_until_ready(run()))
    monkeypatch.undo()
    stored = js.open_run(path)
    assert stored.state == "interrupted"
    for chain in range(stored.n_chains):
        n = int(stored.sample_count[chain])
        assert np.asarray(stored.samples)[chain, :n].tolist() == list(range(n))
    with pytest.raises(js.BusyError, match="closed"):
        init_save(jnp.int32(0))


def fail_after(monkeypatch, kind, *, writes):
    """Let a store's write raise after so many of them."""
    from jaxstore.stores.hdf5 import HDF5Store
    from jaxstore.stores.zarr3 import ZarrStore

    store = ZarrStore if kind == "zarr" else HDF5Store
    write, left = store.write, [writes]

    def limited(self, name, start, values):
        left[0] -= 1
        if left[0] < 0:
            raise DiskTrouble("no more room for chunks")
        write(self, name, start, values)

    monkeypatch.setattr(store, "write", limited)


def test_a_scan_raises_the_error_of_the_store_itself(tmp_path, monkeypatch):
    fail_after(monkeypatch, "zarr", writes=4)
    collector = js.ZarrCollector(tmp_path / "run.zarr", chunk_draws=4)
    with pytest.raises(DiskTrouble, match="chunks"):
        js.scan(lambda x, _: (x + 1, x), 0, length=STEPS, collector=collector, progress=False)
    run = js.open_run(tmp_path / "run.zarr")
    n = int(run.sample_count[0])
    assert np.asarray(run.samples)[0].tolist() == list(range(n))


FILL_DISK = """
import errno, sys
import jax, jax.numpy as jnp
import jaxstore as js

path, how = sys.argv[1:]
make = js.HDF5Collector if path.endswith(".h5") else js.ZarrCollector
key = jax.random.key(0)

def step(i, _):
    return i + 1, {"i": i, "noise": jax.random.normal(jax.random.fold_in(key, i), (1000,))}

try:
    with make(path, chunk_draws=64) as collector:
        if how == "scan":
            js.scan(step, jnp.int32(0), length=10**5, collector=collector, progress=False)
        init_save, save, postprocess_save = js.save(collector)
        def body(carry, _):
            state, i = carry
            i, sample = step(i, None)
            return (save(state, True, sample)[0], i), None
        carry = (init_save(step(jnp.int32(0), None)[1]), jnp.int32(0))
        jax.block_until_ready(jax.jit(lambda c: jax.lax.scan(body, c, length=10**5))(carry))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
    print("full")
"""


@pytest.mark.parametrize(("how", "suffix"), in_turn(["scan", "triple"], ["zarr", "h5"], every=2))
def test_a_full_disk_is_enospc_and_what_was_committed_is_readable(disk, how, suffix):
    path = disk / f"run.{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", FILL_DISK, path, how], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.stdout == "full\n", done.stderr
    assert done.returncode == 0, done.stderr
    with js.open_run(path) as run:
        n = int(run.sample_count[0])
        assert n >= 64
        assert np.asarray(run.samples["i"])[0].tolist() == list(range(n))
        assert np.isfinite(np.asarray(run.samples["noise"])).all()


def test_a_scan_whose_step_fails_keeps_the_draws_before(tmp_path):
    def check(i):
        if i == 20:
            raise DiskTrouble("from the step")
        return np.int32(i)

    def step(x, _):
        return jax.pure_callback(check, jax.ShapeDtypeStruct((), "int32"), x) + 1, x

    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="from the step"):
        js.scan(
            step, 0, length=100, buffer_draws=4, progress=False,
            collector=js.ZarrCollector(tmp_path / "run.zarr"),
        )  # fmt: skip
    run = js.open_run(tmp_path / "run.zarr")
    n = int(run.sample_count[0])
    assert run.state == "interrupted"
    assert 0 < n <= 20
    assert np.asarray(run.samples)[0].tolist() == list(range(n))


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_nothing_that_is_there_is_overwritten(kind, tmp_path):
    path = tmp_path / f"run.{kind}"
    make = js.ZarrCollector if kind == "zarr" else js.HDF5Collector
    with make(path) as first:
        js.scan(lambda x, _: (x + 1, x), 0, length=10, collector=first)
    with pytest.raises(js.ExistsError, match="run"):
        js.scan(lambda x, _: (x + 1, x), 5, length=10, collector=make(path))
    init_save, _, _ = js.save(make(path))
    with pytest.raises(js.ExistsError, match="run"):
        init_save(0.0)
    assert np.asarray(js.open_run(path).samples)[0].tolist() == list(range(10))
    foreign = tmp_path / f"foreign.{kind}"
    if kind == "zarr":
        zarr.open_group(foreign, mode="w").create_array("x", data=np.arange(3))
    else:
        with h5py.File(foreign, "w") as file:
            file["x"] = np.arange(3)
    with pytest.raises(js.FormatError, match="not a jaxstore run"):
        js.open_run(foreign)
    with pytest.raises(js.MissingError, match="nowhere"):
        js.open_run(tmp_path / f"nowhere.{kind}")


def test_a_second_init_with_other_leaves_is_refused_by_name(tmp_path):
    with js.ZarrCollector(tmp_path / "run.zarr") as collector:
        init_save, _, _ = js.save(collector)
        init_save({"x": jnp.zeros(3), "y": 0.0})
        for other, message in (
            ({"x": jnp.zeros(3)}, "samples/y.*missing"),
            ({"x": jnp.zeros(4), "y": 0.0}, r"samples/x.*float32\[3\].*float32\[4\]"),
            ({"x": jnp.zeros(3, int), "y": 0.0}, "samples/x.*int32"),
            ({"x": jnp.zeros(3), "y": 0.0, "z": 1}, "samples/z.*not in the run"),
        ):
            with pytest.raises(js.MismatchError, match=message):
                init_save(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(chunk_draws=0), "chunk_draws"),
        (dict(queue_bytes=-1), "queue_bytes"),
        (dict(group="a/b"), "group"),
        (dict(group=""), "group"),
        (dict(compression="gzip"), "compression"),
    ],
)
@pytest.mark.parametrize("make", [js.ZarrCollector, js.HDF5Collector])
def test_collector_arguments_that_make_no_sense(make, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        js.save(make(tmp_path / "run", **arguments)).init(0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [js.ZarrCollector, js.HDF5Collector])
def test_dims_and_coords_that_do_not_fit_are_refused_before_anything_is_made(make, tmp_path):
    for arguments, message in (
        (dict(dims={"z": ["a"]}), "'z'"),
        (dict(dims={"x": ["a", "b"]}), "'x'"),
        (dict(dims={"x": ["draw"]}), "'x'"),
        (dict(dims={"x": ["a"]}, coords={"a": [1, 2]}), "'a'.*2.*3"),
    ):
        init_save, _, _ = js.save(make(tmp_path / "run", **arguments))
        with pytest.raises(js.MismatchError, match=message):
            init_save({"x": jnp.zeros(3)})
    assert not list(tmp_path.iterdir())


INTERRUPTED = """
import os, signal, sys, threading, time
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp
import jaxstore as js

path, how = sys.argv[1:]
collector = (js.HDF5Collector if path.endswith(".h5") else js.ZarrCollector)(path, chunk_draws=8)

def interrupt():
    while collector.recording.status().draws < 50:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()

def step(i, _):
    work = jnp.sum(jnp.sin(jnp.arange(20_000.0) + i))  # a fraction of a millisecond
    return i + 1 + (work > 1e9), i

STEPS = 10**6
try:
    with collector:
        if how == "scan":
            js.scan(step, jnp.int32(0), length=STEPS, collector=collector, progress=False)
        init_save, save, postprocess_save = js.save(collector)
        def run(c):
            def body(carry, _):
                state, i = carry
                i, sample = step(i, None)
                return (save(state, True, sample)[0], i), None
            start = (init_save(jnp.int32(0), chain=c), jnp.int32(0))
            return jax.lax.scan(body, start, length=STEPS)[0][0]
        if how == "triple":
            run = jax.jit(run)
            jax.block_until_ready(run(-1))
        mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec("d")
        run = jax.shard_map(jax.vmap(run), mesh=mesh, in_specs=spec, out_specs=spec,
                            check_vma=False)
        jax.block_until_ready(jax.jit(run)(jnp.arange(2, dtype=jnp.int32)))
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
"""


@pytest.mark.parametrize(
    ("how", "suffix"), in_turn(["scan", "triple", "shard_map"], ["zarr", "h5"], every=2)
)
def test_ctrl_c_is_keyboard_interrupt_and_leaves_a_readable_store(how, suffix, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    path = tmp_path / f"run.{suffix}"
    done = subprocess.run(
        [sys.executable, program, path, how], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.stdout == "KeyboardInterrupt\n", done.stderr
    assert done.returncode == 0, done.stderr
    run = js.open_run(path)
    assert run.state == "interrupted"
    assert run.n_chains == (2 if how == "shard_map" else 1)
    assert run.sample_count.min() >= (0 if how == "shard_map" else 50)
    for chain in range(run.n_chains):
        n = int(run.sample_count[chain])
        assert np.asarray(run.samples)[chain, :n].tolist() == list(range(n))


def test_the_wakeup_descriptor_is_given_back():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    init_save, save, postprocess_save = js.save()
    state, _ = save(init_save(0.0), True, 0.0)
    postprocess_save(state)
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert before == after


def test_listening_off_the_main_thread_does_nothing():
    errors = []

    def work():
        try:
            listener = interrupt.Listener()
            listener.start()
            interrupt.check()
            listener.stop()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


def test_an_abandoned_collector_is_committed_when_the_program_ends(tmp_path):
    program = textwrap.dedent(
        """
        import sys, jax, jax.numpy as jnp, jaxstore as js
        init_save, save, _ = js.save(js.ZarrCollector(sys.argv[1]), buffer_draws=4)
        state = init_save(jnp.int32(0))
        jax.block_until_ready(
            jax.lax.scan(lambda s, i: save(s, True, i), state, jnp.arange(100)))
        """
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "run.zarr"], check=True)
    run = js.open_run(tmp_path / "run.zarr")
    n = int(run.sample_count[0])
    assert run.state == "interrupted"
    assert n >= 96
    assert np.asarray(run.samples)[0].tolist() == list(range(n))


def kill_some_time_after_a_commit(program, path, *, after_s):
    """Run a program with the path of its run, and kill it; nothing depends on how fast it is."""
    process = subprocess.Popen([sys.executable, "-c", program, path])
    try:
        until = time.monotonic() + 100
        while not committed(path):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(after_s)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def committed(path):
    with contextlib.suppress(js.JaxstoreError):
        return int(js.open_run(path).sample_count.max(initial=0))
    return 0


def test_a_killed_slow_run_has_the_tail_that_was_committed(tmp_path):
    program = textwrap.dedent(
        """
        import sys, jax, jax.numpy as jnp, jaxstore as js
        import jaxstore.saving.recorder as recorder
        recorder.TAIL_EVERY_S = 0.02
        def step(i, _):
            work = jnp.sum(jnp.sin(jnp.arange(300_000.0) + i[0]))
            return i + 1 + (work > 1e9), {"i": i, "j": 2 * i}
        js.scan(step, jnp.zeros(3, "int32"), length=10**8, chains=3, progress=False,
                collector=js.ZarrCollector(sys.argv[1]))
        """
    )
    counts = []
    for round_ in range(2):
        path = tmp_path / f"{round_}.zarr"
        kill_some_time_after_a_commit(program, path, after_s=0.1 + 0.37 * round_)
        run = js.open_run(path)
        n = int(run.sample_count[0])
        counts.append(n)
        assert np.asarray(run.samples["i"]).tolist() == [list(range(n))] * 3
        assert np.asarray(run.samples["j"]).tolist() == [list(range(0, 2 * n, 2))] * 3
    assert max(counts) > 0
    assert any(n % 2**16 for n in counts)  # the last chunk was not whole


def test_a_killed_run_opens_and_every_committed_draw_is_exact(tmp_path):
    program = textwrap.dedent(
        """
        import sys, jax, jax.numpy as jnp, jaxstore as js
        make = js.HDF5Collector if sys.argv[1].endswith("h5") else js.ZarrCollector
        def step(i, _):
            return i + 1 + (jnp.sum(jnp.sin(jnp.arange(5_000.0) + i[0])) > 1e9), i
        js.scan(step, jnp.zeros(3, "int32"), length=10**8, chains=3, progress=False,
                collector=make(sys.argv[1], chunk_draws=64))
        """
    )
    for suffix in ("zarr", "h5"):
        path = tmp_path / f"run.{suffix}"
        kill_some_time_after_a_commit(program, path, after_s=0.5)
        run = js.open_run(path)
        assert run.state == "running"
        n = int(run.sample_count[0])
        assert n > 0
        assert np.asarray(run.samples).tolist() == [list(range(n))] * 3
        assert os.path.exists(path)
