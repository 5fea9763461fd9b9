"""Ctrl-C is heard once, also where Python hears it and loses it."""

import gc
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js
from jaxstore.processing.job import Job
from jaxstore.saving.recording import Recording

LENGTH = 40


def walk(**settings):
    """A scan of five blocks."""
    return js.scan(
        lambda i, _: (i + 1, i), jnp.int32(0), length=LENGTH, buffer_draws=8, progress=False,
        **settings,
    )  # fmt: skip


def press_while_garbage_is_collected():
    """Press Ctrl-C in a hook of the collector, as JAX has one; what is raised there gets lost."""

    def hook(phase, info):
        gc.callbacks.remove(hook)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(hook)
    gc.collect()


def press_at_first(monkeypatch, name):
    """Lose one Ctrl-C at the first call of a method of `Recording`."""
    method = getattr(Recording, name)

    def pressed(self, *args, **settings):
        monkeypatch.setattr(Recording, name, method)
        press_while_garbage_is_collected()
        return method(self, *args, **settings)

    monkeypatch.setattr(Recording, name, pressed)


@pytest.fixture
def handler():
    """Sets the handler of Ctrl-C, for this test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda function: signal.signal(signal.SIGINT, function)
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("method", "state", "least"),
    [("begin", "interrupted", 0), ("put", "interrupted", 1), ("finish_run", "complete", LENGTH)],
)
def test_a_ctrl_c_that_python_loses_ends_a_scan(
    method, state, least, handler, tmp_path, monkeypatch
):
    handler(signal.default_int_handler)
    press_at_first(monkeypatch, method)
    with pytest.raises(KeyboardInterrupt):
        walk(collector=js.ZarrCollector(tmp_path / "run.zarr", chunk_draws=8))
    run = js.open_run(tmp_path / "run.zarr")
    assert run.state == state
    n = int(run.sample_count.max(initial=0))
    assert least <= n <= (LENGTH if state == "complete" else LENGTH - 1)
    assert np.asarray(run.samples)[:, :n].ravel().tolist() == list(range(n))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_a_ctrl_c_that_python_loses_ends_a_process_which_goes_on(engine, handler, monkeypatch):
    handler(signal.default_int_handler)
    place = js.process(jnp.sum, np.ones((1, 2), "f4"), name="other").place
    units = []

    def call(**settings):
        return js.process(jnp.cumsum, np.ones((64, 4), "f4"), place, chunks=4, engine=engine,
                          workers=1, progress=False, **settings)  # fmt: skip

    def pressed(self, unit, *arguments):
        units.append(unit)
        if len(units) == 2:
            press_while_garbage_is_collected()
        return run(self, unit, *arguments)

    run = Job.run
    monkeypatch.setattr(Job, "run", pressed)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert engine == "threads" or len(units) == 2
    result = call()
    assert result.state == "complete"
    assert np.array_equal(result["result"][:], np.cumsum(np.ones((64, 4), "f4"), axis=1))


def test_a_handler_of_the_users_decides_for_itself(handler, monkeypatch):
    heard = []
    handler(lambda number, frame: heard.append(number))
    press_at_first(monkeypatch, "put")
    last, run = walk()
    assert heard == [signal.SIGINT]
    assert (int(last), run.state) == (LENGTH, "complete")


def test_a_ctrl_c_that_was_heard_before_does_not_end_the_next_scan(handler):
    handler(signal.default_int_handler)
    init_save, save, postprocess_save = js.save()
    state = init_save(0.0)  # listens
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert walk()[1].state == "complete"
    postprocess_save(save(state, True, 0.0)[0])


PRESSED = """
import gc, os, random, signal, sys, threading, time
import jax, jax.numpy as jnp
import jaxstore as js

signal.signal(signal.SIGINT, signal.default_int_handler)
luck = random.Random(7)
begun, heard = threading.Event(), threading.Event()

def scan():
    def step(x, _):  # a new one, so that each round traces and compiles too
        for _ in range(30):
            x = jnp.sin(x) + luck.random()
            gc.collect(1)  # as in a program of many objects; here is where it gets lost
        return x, x
    with js.MemoryCollector() as collector:
        js.scan(step, jnp.zeros(3), length=2**30, collector=collector, burn_in=2**30,
                checkpoint_every=1000, progress=False)

def press():
    while True:
        begun.wait()
        begun.clear()
        time.sleep(luck.uniform(0, 0.5))
        os.kill(os.getpid(), signal.SIGINT)
        if not heard.wait(60):
            os._exit(3)
        heard.clear()

threading.Thread(target=press, daemon=True).start()
for _ in range(int(sys.argv[1])):
    try:
        begun.set()
        scan()
    except KeyboardInterrupt:
        heard.set()
        print("heard", flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_is_heard_at_any_moment_of_a_scan():
    rounds = 60
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, str(rounds)], capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "heard\n" * rounds, done.stderr
