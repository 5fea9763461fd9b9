"""`scan(resume=True)`: stopped anywhere, it ends in the bits of a run that was never stopped."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import assert_same
from pairs import in_turn
from resuming import KINDS, Stopped, places, stopped_after

import jaxstore as js
from jaxstore.errors import BusyError, MismatchError

CHAINS = 3


def step(carry, x):
    keys, position, moved = carry
    pairs = jax.vmap(jax.random.split)(keys)
    noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(pairs[:, 1])
    position = jnp.sin(position) + noise
    sample = {
        "position": position,
        "key": pairs[:, 1],
        "half": position.astype(jnp.bfloat16),
        "up": position > 0,
    }
    return (pairs[:, 0], position, moved + jnp.int8(1)), sample


def first():
    keys = jax.random.split(jax.random.key(5), CHAINS)
    return keys, jnp.zeros((CHAINS, 2)), jnp.zeros((), jnp.int8)


def own_keeps(i):
    return (i * jnp.arange(1, CHAINS + 1)) % 5 < 2


SCHEDULES = {
    "all": {},
    "thin": {"thin": 3, "burn_in": 50},
    "some": {"keep": lambda i: i % 4 == 1},
    "own": {"keep": own_keeps},
}


def scan(collector=None, length=600, **how):
    how = {"buffer_draws": 16, "progress": False, **how}
    return js.scan(step, first(), length=length, chains=CHAINS, collector=collector, **how)


def run_with_stops(make, stops, **how):
    """Run to the end, stopped after so many blocks of each attempt."""
    for n_blocks in stops:
        with stopped_after(n_blocks), pytest.raises(Stopped):
            scan(make(), resume=True, **how)
    return scan(make(), resume=True, **how)


def assert_same_run(found, wanted):
    assert found.sample_count.tolist() == wanted.sample_count.tolist()
    assert_same(found.iteration, wanted.iteration)
    for name, leaf in wanted.samples.items():
        assert_same(found.samples[name][...], leaf[...])


@pytest.mark.parametrize(("kind", "schedule"), in_turn(KINDS, SCHEDULES, every=2))
def test_a_stopped_scan_ends_as_one_that_was_not(tmp_path, kind, schedule):
    how = SCHEDULES[schedule]
    carry, wanted = scan(**how)
    make = places(tmp_path)[kind]
    # 37 fits neither chunks nor rings nor windows.
    again, run = run_with_stops(make, (1, 4, 3), checkpoint_every=37, **how)
    assert run.state == "complete"
    assert_same(again, carry)
    assert_same_run(run, wanted)


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_chunks_rings_and_queues_may_change_between(tmp_path, kind):
    _, wanted = scan()
    make = places(tmp_path)[kind]
    sizes = [(64, 8), (16, 32), (None, 128)]
    for chunk_draws, buffer_draws in sizes:
        collector = make(chunk_draws=chunk_draws, queue_bytes=1000)
        how = {"buffer_draws": buffer_draws, "checkpoint_every": 10, "resume": True}
        with stopped_after(5), pytest.raises(Stopped):
            scan(collector, **how)
    _, run = scan(make(chunk_draws=7), checkpoint_every=11, resume=True)
    assert_same_run(run, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", ["thin", "own"])
def test_a_complete_scan_can_become_longer(tmp_path, kind, schedule):
    how = SCHEDULES[schedule]
    carry, wanted = scan(length=500, **how)
    make = places(tmp_path)[kind]
    for length in (107, 250, 500):
        again, run = scan(make(), length=length, checkpoint_every=1000, resume=True, **how)
        assert run.state == "complete"
    assert_same(again, carry)
    assert_same_run(run, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_scan_comes_back_as_it_is_and_no_step_is_run(tmp_path, kind):
    make = places(tmp_path)[kind]
    carry, run = scan(make(), checkpoint_every=100)
    committed_at, nonce = run.committed_at, run.nonce
    again, same = scan(make(), resume=True, checkpoint_every=100)
    assert_same(again, carry)
    assert (same.committed_at, same.nonce) == (committed_at, nonce)
    assert_same_run(same, run)
    assert type(same.samples) is dict


def test_a_run_commits_its_carry_by_default_in_files_and_not_in_memory(tmp_path):
    _, stored = scan(js.ZarrCollector(tmp_path / "run.zarr"))
    _, kept = scan(js.MemoryCollector())
    assert stored.settings["checkpoint_every"] == "10 s"
    assert "checkpoint_every" not in kept.settings


def test_a_carry_of_shapes_goes_on_but_does_not_begin(tmp_path):
    shapes = jax.eval_shape(first)
    make = places(tmp_path)["zarr"]

    def go_on():
        how = {"chains": CHAINS, "progress": False, "checkpoint_every": 50, "resume": True}
        return js.scan(step, shapes, length=600, collector=make(), buffer_draws=16, **how)

    with pytest.raises(MismatchError, match="shape of a carry, and there is no run at"):
        go_on()
    with stopped_after(9), pytest.raises(Stopped):
        scan(make(), checkpoint_every=50)
    carry, wanted = scan()
    again, run = go_on()
    assert_same(again, carry)
    assert_same_run(run, wanted)


def test_a_carry_over_several_devices_goes_on_there(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:3]), ("d",))
    over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    keys, position, moved = first()
    carry = (*jax.device_put((keys, position), over), moved)
    make = places(tmp_path)["zarr"]

    def sharded(collector, **how):
        return js.scan(step, carry, length=200, chains=CHAINS, collector=collector,
                       buffer_draws=16, progress=False, **how)  # fmt: skip

    _, wanted = sharded(js.MemoryCollector())
    with stopped_after(4), pytest.raises(Stopped):
        sharded(make(), checkpoint_every=20)
    last, run = sharded(make(), checkpoint_every=20, resume=True)
    assert last[1].sharding.is_equivalent_to(over, 2)
    assert_same_run(run, wanted)


def test_xs_and_a_carry_without_arrays_of_jax(tmp_path):
    def add(total, x):
        return total + x, {"total": total}

    xs = np.arange(90, dtype=np.float32)
    make = places(tmp_path)["hdf5"]
    last, wanted = js.scan(add, 0.0, xs)
    with stopped_after(3), pytest.raises(Stopped):
        js.scan(add, 0.0, xs, collector=make(), checkpoint_every=7, buffer_draws=4, resume=True)
    again, run = js.scan(add, 0.0, xs, collector=make(), resume=True)
    assert_same(again, last)
    assert_same(run.samples["total"][...], wanted.samples["total"])
    with pytest.raises(MismatchError, match="xs differs from that of the run at .* in 'xs'"):
        js.scan(add, 0.0, xs[::-1], collector=make(), resume=True)


REFUSED = {
    "another step": (lambda c, x: step(c, x), {}, None),
    "thin=2": (step, {"thin": 2}, r"has thin=1, this scan thin=2"),
    "burn_in=5": (step, {"burn_in": 5}, r"has burn_in=0, this scan burn_in=5"),
    "keep": (step, {"keep": lambda i: i % 2 == 0}, r"keep computes something else"),
    "shorter": (step, {"length": 100}, r"has 600 steps already, this scan has length=100"),
    "step": (
        lambda c, x: step((c[0], c[1] + 1, c[2]), x),
        {},
        r"step computes something else .* fingerprint \w+, the run's \w+",
    ),
    "carry": (
        step,
        {"carry": (*first()[:1], jnp.ones((CHAINS, 2)), first()[2])},
        r"first carry differs .* in 'list_element_1'",
    ),
    "structure": (
        lambda c, x: ((*step(c[:3], x)[0], c[3]), step(c[:3], x)[1]),
        {"carry": (*first(), jnp.zeros(2))},
        r"step computes something else",
    ),
    "sample": (
        lambda c, x: (step(c, x)[0], {"position": c[1]}),
        {},
        r"step computes something else",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_program_is_refused_and_nothing_changes(tmp_path, case):
    function, how, message = REFUSED[case]
    make = places(tmp_path)["zarr"]
    scan(make(), checkpoint_every=100)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    how = {"length": 600, "carry": first(), "checkpoint_every": 100, **how}
    carry, length = how.pop("carry"), how.pop("length")

    def go_on():
        return js.scan(function, carry, length=length, chains=CHAINS, collector=make(),
                       progress=False, resume=True, **how)  # fmt: skip

    if message is None:  # the same program under another name
        go_on()
    else:
        with pytest.raises(MismatchError, match=message):
            go_on()
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    before.pop(tmp_path / "run.zarr" / "zarr.json"), after.pop(tmp_path / "run.zarr" / "zarr.json")
    assert after == before
    scan(make(), checkpoint_every=100, resume=True)  # and it is free again


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_run_without_checkpoints_is_not_thrown_away(tmp_path, kind):
    make = places(tmp_path)[kind]
    with stopped_after(9), pytest.raises(Stopped):
        scan(make(), checkpoint_every=0)
    with pytest.raises(MismatchError, match=r"interrupted, with \d+ draws and no checkpoint"):
        scan(make(), resume=True)
    path = tmp_path / {"zarr": "run.zarr", "hdf5": "run.h5"}[kind]
    assert js.open_run(path).sample_count.min() > 0


def test_without_resume_nothing_is_gone_on_with(tmp_path):
    make = places(tmp_path)["zarr"]
    scan(make())
    with pytest.raises(js.ExistsError, match=r"resume"):
        scan(make())


def test_a_run_that_somebody_writes_is_refused(tmp_path):
    make = places(tmp_path)["zarr"]
    busy = make()
    init_save, _, _ = js.save(busy, checkpoint_every=5)
    init_save({"x": 0.0})
    with pytest.raises(BusyError, match=r"this process"):
        scan(make(), resume=True)
    busy.close()


@pytest.mark.parametrize("every", [-1, 1.5, True, "10"])
def test_an_interval_that_makes_no_sense_is_refused(every):
    with pytest.raises(ValueError, match="checkpoint_every must be a whole number >= 0"):
        scan(checkpoint_every=every)


def test_data_loaders_go_on_where_the_checkpoint_was(tmp_path):
    """Minibatches come from the host; a run that is stopped gets the same ones."""
    make = places(tmp_path)["zarr"]
    seen: list[list[int]] = []

    class Batches:
        def __init__(self):
            self.position = 0

        def state(self):
            return {"position": self.position}

        def restore(self, state):
            self.position = state["position"]

        def next(self):
            rows = np.random.default_rng((7, self.position)).integers(0, 100, 4)
            self.position += 1
            seen.append(rows.tolist())
            return rows.astype(np.int32)

    def run(collector, *, is_registered=True, **how):
        batches = Batches()
        if is_registered:
            collector.register_data_loader(batches)

        def learn(weight, _):
            shape = jax.ShapeDtypeStruct((4,), jnp.int32)
            rows = jax.experimental.io_callback(lambda: batches.next(), shape, ordered=False)
            weight = 0.9 * weight + rows.sum()
            return weight, {"weight": weight, "rows": rows}

        return js.scan(learn, jnp.float32(0), length=200, collector=collector,
                       buffer_draws=8, progress=False, **how)  # fmt: skip

    _, wanted = run(js.MemoryCollector())
    with stopped_after(5), pytest.raises(Stopped):
        run(make(), checkpoint_every=13)
    _, found = run(make(), checkpoint_every=13, resume=True)
    assert_same(found.samples["rows"][...], wanted.samples["rows"])
    assert_same(found.samples["weight"][...], wanted.samples["weight"])
    with stopped_after(5), pytest.raises(Stopped):
        run(js.HDF5Collector(tmp_path / "run.h5"), checkpoint_every=13)
    with pytest.raises(MismatchError, match="positions of 1 data loaders, 0 are registered"):
        run(js.HDF5Collector(tmp_path / "run.h5"), is_registered=False, resume=True)


def test_a_step_whose_helper_was_edited_runs_as_it_is_now(tmp_path):
    """In a notebook the step stays the same function while a cell with its helper is run again."""

    drift = partial(jnp.add, 1)

    def step(x, _):
        x = drift(x)
        return x, {"x": x}

    def run(name):
        with js.ZarrCollector(tmp_path / name) as collector:
            _, run = js.scan(step, 0.0, length=3, collector=collector, progress=False)
            return run.samples["x"][0].tolist()

    assert run("before") == [1, 2, 3]
    drift = partial(jnp.add, np.arange(2))
    with pytest.raises(MismatchError, match="step changes carry"):
        run("other shape")
    drift = partial(jnp.add, 10)
    assert run("after") == [10, 20, 30]
