"""`collector.resume()`: what it gives, what it refuses, and what a collector of one's own gets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import assert_same
from resuming import KINDS, Stopped, places, stopped_after
from walking import (
    EVERY,
    Walk,
    advance,
    assert_same_saved,
    attempt,
    begin,
    uninterrupted,
    vmapped,
    walks,
)

import jaxstore as js
from jaxstore.errors import MismatchError


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_go_on_with_is_none(tmp_path, kind):
    assert places(tmp_path)[kind]().resume() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["memory", "zarr", "hdf5"])
def test_stopped_before_its_first_checkpoint_it_begins_again(tmp_path, kind):
    make = places(tmp_path)[kind]
    with stopped_after(1), pytest.raises(Stopped):
        attempt(vmapped, make())
    collector = make()
    assert collector.resume() is None
    if kind != "memory":
        collector.close()
    assert_same_saved(attempt(vmapped, make())[0], uninterrupted(vmapped)[0])


def test_a_state_without_a_template_comes_as_nested_dicts(tmp_path):
    collector = js.ZarrCollector(tmp_path / "run.zarr")
    with stopped_after(60), pytest.raises(Stopped):
        attempt(vmapped, collector)
    point = js.ZarrCollector(tmp_path / "run.zarr").resume()
    assert set(point.solver_state) == {"key", "position", "steps"}
    assert point.solver_state["key"].shape == (4,)
    assert point.solver_state["key"].dtype == begin(0).key.dtype
    assert repr(point).startswith(f"<Checkpoint after step {point.step}: 4 chains, ")
    assert point.sample_count.tolist() == list(point.draws)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"key": jnp.zeros(2, jnp.uint32)}, r"has solver_state/key threefry2x32\[2\], this state"),
        (begin(0)._replace(steps=0), r"steps int16\[\], this state has .* int32\[\]"),
        ((1, 2), r"this state has no such leaf"),
        ({**begin(0)._asdict(), "more": 1}, r"solver_state/more int32\[\], the checkpoint has not"),
    ],
)
def test_another_state_is_refused_before_anything_changes(tmp_path, template, message):
    with stopped_after(60), pytest.raises(Stopped):
        attempt(vmapped, js.ZarrCollector(tmp_path / "run.zarr"))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "c" in p.parts}
    collector = js.ZarrCollector(tmp_path / "run.zarr")
    with pytest.raises(MismatchError, match=message):
        collector.resume(solver_state=template)
    collector.close()
    for path, data in before.items():
        assert path.read_bytes() == data


def test_chains_that_are_complete_are_not_dropped_for_want_of_a_checkpoint(tmp_path):
    collector = js.ZarrCollector(tmp_path / "run.zarr")
    init_save, save, postprocess_save = js.save(collector, checkpoint_every=4)
    for n_steps in (10, 3):  # the second group ends before its first checkpoint
        state = init_save({"x": 0})
        for i in range(n_steps):
            state, _ = save(state, True, {"x": jnp.array(i)}, solver_state=jnp.array(i))
        postprocess_save(state)
    collector.close()
    again = js.ZarrCollector(tmp_path / "run.zarr")
    with pytest.raises(MismatchError, match="is complete, with 13 draws and no checkpoint"):
        again.resume()
    assert js.open_run(tmp_path / "run.zarr").sample_count.tolist() == [10, 3]


def test_another_sample_is_refused_before_anything_is_cut(tmp_path):
    with stopped_after(60), pytest.raises(Stopped):
        attempt(vmapped, js.ZarrCollector(tmp_path / "run.zarr"))
    draws = js.open_run(tmp_path / "run.zarr").sample_count.tolist()
    collector = js.ZarrCollector(tmp_path / "run.zarr")
    collector.resume()
    init_save, _, _ = js.save(collector, checkpoint_every=EVERY)
    with pytest.raises(MismatchError, match=r"'samples/other' is not in the run"):
        init_save({"other": 0.0})
    collector.close()
    assert js.open_run(tmp_path / "run.zarr").sample_count.tolist() == draws


def test_a_collector_of_the_users_gets_the_states_of_each_chain():
    class Own:
        def __init__(self):
            self.points = []
            self.draws = {}

        def register_chain(self, init_sample=None, init_checkpoint=None, static_information=None):
            self.draws[len(self.draws)] = 0
            return len(self.draws) - 1

        def save(self, chain_id, values):
            self.draws[chain_id] += 1

        def checkpoint(self, chain_id, state):
            self.points.append((chain_id, self.draws[chain_id], state))

        def finalize(self, chain_id):
            pass

        def finished(self, chain_id):
            return self.draws[chain_id]

    own = Own()
    triple = js.save(own, checkpoint_every=100)
    state, _ = vmapped(triple, walks(), 0)
    saved = triple.postprocess(state)
    assert saved["samples"] == saved["sample_count"].tolist()
    assert [c for c, _, _ in own.points] == [0, 1, 2, 3] * 3
    for i, (c, n_draws, (scheduler_state, walk)) in enumerate(own.points):
        assert int(scheduler_state) == 100 * (i // 4) + 99
        assert isinstance(walk, Walk)
        # The state alone, by a loop without a triple.
        again, kept = begin(c), 0
        for step in range(100 * (i // 4) + 100):
            again, keep, _ = jax.jit(advance)(again, step)
            kept += int(keep)
        assert n_draws == kept
        assert_same(walk.steps, again.steps)
        np.testing.assert_allclose(walk.position, again.position, rtol=1e-3)


def test_a_collector_without_the_method_is_refused():
    class Own:
        register_chain = save = finalize = finished = lambda self, *args: None

    with pytest.raises(TypeError, match=r"Own has no method checkpoint\(chain_id, state\)"):
        js.save(Own(), checkpoint_every=5)
    with pytest.raises(TypeError, match=r"int has no methods state\(\) and restore\(state\)"):
        js.MemoryCollector().register_data_loader(3)


def test_one_host_call_serves_all_lanes_at_a_checkpoint(monkeypatch):
    from jaxstore.saving.session import Session

    calls = []
    receive = Session.receive
    monkeypatch.setattr(
        Session, "receive", lambda self, p: calls.append(p.point is not None) or receive(self, p)
    )
    triple = js.save(js.MemoryCollector(), checkpoint_every=100, buffer_draws=1024)
    triple.postprocess(vmapped(triple, walks(), 0)[0])
    assert sum(calls) == 3
    assert len(calls) < 30
