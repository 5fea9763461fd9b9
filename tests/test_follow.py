"""Following a run: everything once, in order, to the bit; and when it ends."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import KINDS, STORED, same
from hand_written import HandWritten
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxstore as js
from jaxstore.saving import follow, news
from jaxstore.stores.hdf5 import HDF5Store
from jaxstore.stores.memory import MemoryStore
from jaxstore.stores.zarr3 import ZarrStore

STORES = {
    "memory": lambda path: MemoryStore(),
    "zarr": lambda path: ZarrStore.new(path / "run.zarr"),
    "hdf5": lambda path: HDF5Store.new(path / "run.h5"),
}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where `follow` waits; what happens then is in `clock.events`."""

    class Clock:
        now, events = 0.0, ()

        def sleep(self, seconds):
            assert seconds >= 0
            self.now += max(seconds, 1e-3)
            if self.events:
                event, *self.events = self.events
                event()

    clock = Clock()
    monkeypatch.setattr(follow.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(follow.time, "sleep", clock.sleep)
    return clock


def data(value):
    keys = jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if keys else value)


def by_name(samples):
    deep = samples["deep"]
    names = {
        "samples/x": samples["x"],
        "samples/deep/n": deep["n"],
        "samples/deep/key": deep["key"],
    }
    return {name: data(value) for name, value in names.items()}


def joined(heard):
    parts = [by_name(item.samples) for item in heard]
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def assert_joined(heard, wanted):
    found = joined(heard)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert same(found[name], values), name
    stops = [item.first_draw + item.n_new for item in heard]
    assert [item.first_draw for item in heard] == [0, *stops[:-1]]


@pytest.mark.parametrize("kind", STORES)
def test_news_are_rectangular_while_it_runs_and_padded_at_the_end(kind, tmp_path, clock):
    run = HandWritten(STORES[kind](tmp_path))
    run.grow(5, 2)
    clock.events = [
        lambda: run.grow(9, 2),
        lambda: run.grow(9, 7),
        lambda: run.grow(9, 8, state="complete"),
    ]
    heard = list(js.open_run(run.store).follow())
    assert [(item.first_draw, item.n_new, item.state) for item in heard] == [
        (0, 2, "running"),
        (2, 5, "running"),
        (7, 2, "complete"),
    ]
    assert [item.sample_count.tolist() for item in heard] == [[5, 2], [9, 7], [9, 8]]
    assert_joined(heard, run.samples(9, 8))
    whole = js.open_run(run.store)
    assert_joined(heard, by_name(jax.tree.map(lambda a: a[:], whole.samples)))
    assert same(np.concatenate([item.iteration for item in heard], axis=1), whole.iteration)
    key = heard[0].samples["deep"]["key"]
    assert key.dtype == jax.random.key(0).dtype
    assert repr(heard[1]) == "<News draws 2 to 7 of 2 chains, running>"


@settings(max_examples=60, deadline=None)
@given(
    growth=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6),
    cuts=st.sets(st.integers(1, 6)),
    most=st.integers(1, 5),
)
def test_whatever_commits_and_is_cut_back_comes_once(growth, cuts, most):
    """Counts of two chains grow at random; at some commits they go back to an earlier one."""
    run = HandWritten(MemoryStore())
    counts, history = [0, 0], []
    for i, more in enumerate(growth):
        if i in cuts and history:
            history.append(history[len(history) // 2])
        else:
            history.append(tuple(a + b for a, b in zip(counts, more, strict=True)))
        counts = list(history[-1])
    last = tuple(max(h[c] for h in [*history, (1, 1)]) for c in range(2))
    steps = [lambda n=n: run.grow(*n) for n in history]
    steps.append(lambda: run.grow(*last, state="complete"))

    def sleep(_):
        steps.pop(0)()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow.time, "sleep", sleep)
        patch.setattr(follow, "NEWS_BYTES", most * 2 * (8 + 12 + 4 + 8))
        heard = list(js.open_run(run.store).follow())
    assert_joined(heard, run.samples(*last))
    assert max(item.n_new for item in heard) <= most


@pytest.mark.parametrize("kind", ["memory", "zarr"])
def test_a_run_that_is_cut_back_while_it_is_read_gives_nothing_until_it_is_beyond(
    kind, tmp_path, clock, monkeypatch
):
    run = HandWritten(STORES[kind](tmp_path))
    run.grow(8, 8)
    read, is_first = follow.read_news, [True]

    def cut_and_read(now, cut):
        if not is_first:
            return read(now, cut)
        is_first.clear()
        found = read(now, cut)
        run.grow(4, 4)
        # What may come of a chunk that is just being written anew.
        return replace(found, samples=jax.tree.map(lambda a: a[:, ::-1], found.samples))

    monkeypatch.setattr(follow, "read_news", cut_and_read)
    clock.events = [lambda: None, lambda: run.grow(12, 12, state="complete")]
    heard = list(js.open_run(run.store).follow())
    assert [item.sample_count.tolist() for item in heard] == [[4, 4], [12, 12]]
    assert_joined(heard, run.samples(12, 12))


def test_what_is_there_may_be_skipped(tmp_path, clock):
    run = HandWritten(STORES["zarr"](tmp_path))
    run.grow(5, 3)
    clock.events = [lambda: run.grow(6, 6, state="complete")]
    (heard,) = js.open_run(run.store).follow(from_start=False)
    assert (heard.first_draw, heard.n_new) == (3, 3)
    assert list(js.open_run(run.store).follow(from_start=False)) == []


def test_it_ends_after_a_time_without_news(clock):
    run = HandWritten(MemoryStore())
    run.grow(5, 5)
    clock.events = [lambda: None] * 3 + [lambda: run.grow(6, 6)]
    heard = list(js.open_run(run.store).follow(poll_s=1.0, timeout_s=4.5))
    assert [item.n_new for item in heard] == [5, 1]
    assert clock.now == pytest.approx(4 + 4.5, abs=0.1)


def test_chains_that_scan_begins_together_come_together(clock):
    run = HandWritten(MemoryStore(), settings={"chains": 2})
    run.grow(5)
    clock.events = [lambda: run.grow(5, 4, state="complete")]
    heard = list(js.open_run(run.store).follow())
    assert [item.chains for item in heard] == [(0, 1)]
    assert_joined(heard, run.samples(5, 4))


def test_chains_that_begin_later_come_as_news_of_their_own(clock):
    run = HandWritten(MemoryStore(), n_chains=3)
    run.grow(5, 5)
    clock.events = [lambda: run.grow(5, 6, 2), lambda: run.grow(7, 7, 3, state="complete")]
    heard = list(js.open_run(run.store).follow())
    wanted = run.samples(7, 7, 3)
    for chains, n in (((0, 1), 7), ((2,), 3)):
        own = {name: values[list(chains), :n] for name, values in wanted.items()}
        assert_joined([item for item in heard if item.chains == chains], own)


def test_a_store_that_vanishes_says_so(tmp_path, clock):
    import shutil

    run = HandWritten(STORES["zarr"](tmp_path))
    run.grow(5, 5)
    clock.events = [lambda: shutil.rmtree(tmp_path / "run.zarr")]
    heard = js.open_run(tmp_path / "run.zarr").follow()
    assert next(heard).n_new == 5
    with pytest.raises(js.MissingError, match="run.zarr"):
        next(heard)


class Locked(MemoryStore):
    """Held by another process for some calls."""

    refusals = 0

    def committed(self):
        if self.refusals:
            self.refusals -= 1
            raise js.BusyError("another process writes it")
        return super().committed()


def test_a_store_that_is_busy_for_a_while_is_asked_again(clock):
    run = HandWritten(Locked())
    run.grow(5, 5)
    heard = js.open_run(run.store).follow(timeout_s=10)
    assert next(heard).n_new == 5
    run.store.refusals = 4
    clock.events = [lambda: None, lambda: run.grow(7, 7, state="complete")]
    assert [item.n_new for item in heard] == [2]


@pytest.mark.parametrize("timeout_s", [3.0, None])
def test_a_store_that_stays_busy_says_so_in_the_end(clock, timeout_s):
    run = HandWritten(Locked())
    run.grow(5, 5)
    heard = js.open_run(run.store).follow(poll_s=1.0, timeout_s=timeout_s)
    next(heard)
    run.store.refusals = 10**6
    with pytest.raises(js.BusyError, match="another process"):
        next(heard)
    assert clock.now == pytest.approx(timeout_s or follow.BUSY_S, abs=1.1)


def test_damage_is_raised_and_not_waited_for(tmp_path, clock):
    run = HandWritten(STORES["zarr"](tmp_path))
    run.grow(8, 8)
    chunk = tmp_path / "run.zarr" / "samples" / "x" / "c" / "1" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(js.FormatError, match="samples/x.*chunk"):
        list(js.open_run(tmp_path / "run.zarr").follow())
    assert clock.now < 10


@pytest.mark.parametrize("kind", STORED)
def test_a_run_of_scan_comes_in_the_structure_of_its_samples(kind, tmp_path):
    def step(x, i):
        return x + 1, (x, {"key": jax.vmap(jax.random.key)(x.astype(int)), "i": [x[:, None] + i]})

    with KINDS[kind](tmp_path) as collector:
        stops = jnp.array([40, 17, 3])
        _, run = js.scan(
            step, jnp.arange(3.0), jnp.arange(40.0), chains=3, collector=collector,
            keep=lambda i: i < stops, progress=False,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(follow, "NEWS_BYTES", 600)
            heard = list(run.follow())
        assert len(heard) > 3
        assert jax.tree.structure(heard[0].samples) == jax.tree.structure(
            jax.tree.map(lambda a: 0, run.samples)
        )
        leaves = [jax.tree.leaves(item.samples) for item in heard]
        for parts, whole in zip(zip(*leaves, strict=True), run.leaves, strict=True):
            assert same(np.concatenate(list(map(data, parts)), axis=1), data(whole[:]))


def test_a_refreshed_run_leaves_the_old_one_as_it_was(tmp_path):
    run = HandWritten(STORES["zarr"](tmp_path))
    run.grow(5, 3)
    old = js.open_run(tmp_path / "run.zarr")
    run.grow(8, 8)
    new = old.refresh()
    assert (old.sample_count.tolist(), new.sample_count.tolist()) == ([5, 3], [8, 8])
    assert old.nonce != new.nonce
    assert same(np.asarray(old.samples["x"]), run.samples(5, 3)["samples/x"])
    assert same(np.asarray(new.samples["x"]), run.samples(8, 8)["samples/x"])


def test_a_run_that_commits_while_it_is_opened_is_looked_at_again():
    """Between two looks at the record another commit came: the first was of no single moment."""
    from jaxstore.saving import run as runs

    writer = HandWritten(MemoryStore())
    writer.grow(5, 5)
    real, calls = runs.Run.__init__, []

    def fails_once(self, store, **options):
        calls.append(1)
        if len(calls) == 1:
            writer.grow(6, 6)
            raise js.FormatError("tail-0 is another one")
        real(self, store, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.Run, "__init__", fails_once)
        assert js.open_run(writer.store).sample_count.tolist() == [6, 6]
        calls.clear()
        patch.setattr(runs.Run, "__init__", lambda *a, **k: calls.append(1) or fail())
        with pytest.raises(js.FormatError, match="damaged"):
            js.open_run(writer.store)
    assert len(calls) == 1


def fail():
    raise js.FormatError("damaged")


def test_the_plan_is_pure():
    one = news.Place((0, 1), 3)
    assert news.cut_of(one, (3, 9), is_live=True, most_draws=5) is None
    assert news.cut_of(one, (), is_live=True, most_draws=5) is None
    assert news.cut_of(one, (4, 9), is_live=False, most_draws=5) == news.Cut((0, 1), 3, 8)
