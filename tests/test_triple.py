"""Draws are exact whatever surrounds `save`, for every collector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import KINDS, STORED, ListCollector, assert_same

import jaxstore as js
from jaxstore.saving import channel
from jaxstore.saving.recorder import Recorder
from jaxstore.saving.session import Session

N = 500
SLOTS = 32


class Counted:
    """Counts host calls, where each of them ends up."""

    def __init__(self, monkeypatch):
        self.calls = 0
        receive = Session.receive

        def counted(session, payload):
            self.calls += 1
            return receive(session, payload)

        monkeypatch.setattr(Session, "receive", counted)

    def check(self, ticks):
        """One call per flush: the ring doubles from one draw to its size, and then fills."""
        assert ticks // SLOTS <= self.calls <= ticks // SLOTS + SLOTS.bit_length()


@pytest.fixture
def counted(monkeypatch):
    return Counted(monkeypatch)


def tree_at(i):
    """A nested sample that tells its step."""
    return {
        "a": i.astype(jnp.float32) * jnp.ones(3),
        "b": [i, {"c": (i * 2, jnp.full((2, 2), i, jnp.int8))}],
    }


def program(init_save, save):
    """A chain that saves 1000 * chain + step under its mask; ring and step are its own."""

    def run(c, mask, **kwargs):
        def body(state, x):
            i, keep = x
            return save(state, keep, (1000 * c + i).astype(jnp.int32))

        state = init_save(jnp.int32(0), **kwargs)
        return jax.lax.scan(body, state, (jnp.arange(mask.shape[0]), mask))[0]

    return run


def expected(masks):
    """Draws of each chain by its mask."""
    return [1000 * c + np.flatnonzero(m) for c, m in enumerate(np.asarray(masks))]


def check_chains(saved, masks):
    want = expected(masks)
    assert np.asarray(saved["sample_count"]).tolist() == [len(w) for w in want]
    found = np.asarray(saved["samples"])
    assert found.shape == (len(want), max(map(len, want)))
    for row, draws in zip(found, want, strict=True):
        assert row[: len(draws)].tolist() == draws.tolist()
        assert not row[len(draws) :].any()


@pytest.fixture
def masks():
    return jnp.asarray(np.random.default_rng(0).random((8, N)) < 0.3)


@pytest.mark.parametrize("is_jitted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_draws_of_a_nested_tree_equal_the_masked_scan_output(kind, is_jitted, tmp_path):
    mask = jnp.asarray(np.random.default_rng(1).random(15) < 0.5)
    with KINDS[kind](tmp_path) as collector:
        init_save, save, postprocess_save = js.save(collector)

        def run():
            def body(state, x):
                i, keep = x
                state, _ = save(state, keep, tree_at(i))
                return state, tree_at(i)

            state = init_save(tree_at(jnp.int32(0)))
            return jax.lax.scan(body, state, (jnp.arange(15), mask))

        state, stacked = (jax.jit(run) if is_jitted else run)()
        saved = postprocess_save(state, None)
        assert int(saved["sample_count"]) == int(mask.sum())
        assert_same(saved["samples"], jax.tree.map(lambda a: np.asarray(a)[mask], stacked))


def test_a_users_own_collector_gets_every_draw_and_gives_the_samples():
    collector = ListCollector()
    init_save, save, postprocess_save = js.save(collector)
    state = init_save(tree_at(jnp.int32(0)), None, js.static_information(samples_collected=8))
    state, _ = jax.lax.scan(lambda s, i: save(s, i % 2 == 0, tree_at(i)), state, jnp.arange(15))
    saved = postprocess_save(state, None)
    assert saved["samples"]["b"][0].tolist() == list(range(0, 15, 2))
    assert saved["samples"]["b"][1]["c"][1].shape == (8, 2, 2)


def test_a_users_own_collector_has_one_chain_per_lane(masks):
    collector = ListCollector()
    init_save, save, postprocess_save = js.save(collector, buffer_draws=SLOTS)
    saved = postprocess_save(jax.jit(jax.vmap(program(init_save, save)))(jnp.arange(8), masks))
    for found, draws in zip(saved["samples"], expected(masks), strict=True):
        assert found.tolist() == draws.tolist()


@pytest.mark.parametrize("kind", STORED)
def test_vmap_with_a_mask_per_chain(kind, tmp_path, masks, counted):
    init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path), buffer_draws=SLOTS)
    state = jax.jit(jax.vmap(program(init_save, save)))(jnp.arange(8), masks)
    check_chains(postprocess_save(state), masks)
    counted.check(int(np.asarray(masks).any(axis=0).sum()))


@pytest.mark.parametrize("kind", STORED)
def test_vmap_with_one_mask_for_all_makes_one_call_for_all_chains(kind, tmp_path, masks, counted):
    init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path), buffer_draws=SLOTS)
    run = jax.vmap(program(init_save, save), in_axes=(0, None))
    check_chains(
        postprocess_save(jax.jit(run)(jnp.arange(8), masks[0])), jnp.tile(masks[0], (8, 1))
    )
    counted.check(int(masks[0].sum()))


def test_tails_that_are_written_for_now_change_nothing(tmp_path, masks, monkeypatch):
    monkeypatch.setattr("jaxstore.saving.recorder.TAIL_EVERY_S", 0)
    monkeypatch.setattr("jaxstore.saving.recorder.COMMIT_SHARE", 0)
    commits = []
    commit = Recorder.commit

    def counted(self, state, **settings):
        commit(self, state, **settings)
        commits.append(self._draws())

    monkeypatch.setattr(Recorder, "commit", counted)
    for i, mask in enumerate((masks, jnp.tile(masks[0], (8, 1)))):
        collector = js.ZarrCollector(tmp_path / f"{i}.zarr")
        init_save, save, postprocess_save = js.save(collector, buffer_draws=SLOTS)
        run = jax.vmap(program(init_save, save), in_axes=(0, 0 if i == 0 else None))
        state = jax.block_until_ready(jax.jit(run)(jnp.arange(8), mask if i == 0 else mask[0]))
        collector.flush()
        assert len(commits) > 5
        assert 0 < sum(commits[-1]) < int(mask.sum())
        check_chains(postprocess_save(state), mask)


def test_nested_vmap_numbers_chains_in_lane_order(masks, counted):
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=SLOTS)
    run = jax.jit(jax.vmap(jax.vmap(program(init_save, save))))
    state = run(jnp.arange(8).reshape(2, 4), masks.reshape(2, 4, N))
    check_chains(postprocess_save(state), masks)
    counted.check(int(np.asarray(masks).any(axis=0).sum()))


@pytest.mark.parametrize("mapped", [False, True])
def test_init_outside_or_inside_of_jit_and_vmap(mapped, masks):
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=SLOTS)

    def run(state, c, mask):
        body = lambda s, x: save(s, x[1], (1000 * c + x[0]).astype(jnp.int32))  # noqa: E731
        return jax.lax.scan(body, state, (jnp.arange(N), mask))[0]

    state = init_save(jnp.int32(0))
    if mapped:
        state = jax.jit(jax.vmap(run, in_axes=(None, 0, 0)))(state, jnp.arange(8), masks)
        check_chains(postprocess_save(state), masks)
    else:
        saved = postprocess_save(jax.jit(run)(state, 0, masks[0]))
        assert np.array_equal(saved["samples"], expected(masks)[0])


@pytest.fixture
def mesh():
    return jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("kind", STORED)
def test_shard_map_of_vmap_with_named_chains(kind, check_vma, tmp_path, mesh, masks):
    init_save, save, postprocess_save = js.save(KINDS[kind](tmp_path), buffer_draws=SLOTS)
    run = program(init_save, save)
    spec = jax.sharding.PartitionSpec("d")
    state = init_save(jnp.int32(0))

    def local(c, mask):
        start = jax.tree.map(lambda a: jax.lax.pcast(a, "d", to="varying"), state)

        def one(c, mask):
            body = lambda s, x: save(s, x[1], (1000 * c + x[0]).astype(jnp.int32))  # noqa: E731
            return jax.lax.scan(body, start._replace(chain=c), (jnp.arange(N), mask))[0]

        return jax.vmap(one)(c, mask)

    if not check_vma:
        local = jax.vmap(lambda c, mask: run(c, mask, chain=c))
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(spec, spec), out_specs=spec,
                           check_vma=check_vma)  # fmt: skip
    check_chains(postprocess_save(jax.jit(mapped)(jnp.arange(8, dtype=jnp.int32), masks)), masks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pmap_with_named_chains(masks):
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=SLOTS)
    run = jax.pmap(lambda c, m: program(init_save, save)(c, m, chain=c))
    check_chains(postprocess_save(run(jnp.arange(4), masks[:4])), masks[:4])


def test_auto_sharded_jit(mesh, masks):
    init_save, save, postprocess_save = js.save(js.MemoryCollector(), buffer_draws=SLOTS)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    chains, sharded = jax.device_put((jnp.arange(8), masks), sharding)
    state = jax.jit(jax.vmap(program(init_save, save)))(chains, sharded)
    check_chains(postprocess_save(state), masks)


def test_devices_that_name_no_chain_are_told_to(mesh, masks):
    collector = js.MemoryCollector()
    init_save, save, _ = js.save(collector, buffer_draws=SLOTS)
    state = init_save(jnp.int32(0))
    spec = jax.sharding.PartitionSpec("d")

    def local(mask):
        body = lambda s, x: save(s, x[1], x[0])  # noqa: E731
        last = jax.lax.scan(body, state, (jnp.arange(N), mask[0]))[0]
        return jax.tree.map(lambda a: a[None], last)

    run = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    with pytest.raises(js.MismatchError, match="axis_index"), collector:
        jax.block_until_ready(jax.jit(run)(masks[:4]))


@pytest.mark.parametrize("kind", STORED)
def test_every_dtype_comes_back_as_it_went_in(kind, tmp_path):
    dtypes = ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int8",
              "uint32", "bool", "complex64", "float32"]  # fmt: skip

    def sample_at(i):
        sample = {d: jax.lax.convert_element_type(i % 5 + jnp.arange(3), d) for d in dtypes}
        return sample | {
            "key": jax.random.fold_in(jax.random.key(0), i),
            "rbg": jax.random.split(jax.random.fold_in(jax.random.key(0, impl="rbg"), i), 2),
        }

    with KINDS[kind](tmp_path) as collector:
        init_save, save, postprocess_save = js.save(collector, buffer_draws=4)
        state = init_save(sample_at(0))
        state, stacked = jax.lax.scan(
            lambda s, i: (save(s, True, sample_at(i))[0], sample_at(i)), state, jnp.arange(10)
        )
        assert_same(postprocess_save(state)["samples"], stacked)
    if kind != "memory":
        with js.open_run(next(tmp_path.iterdir())) as run:
            assert_same(jax.tree.map(lambda a: a[0], run.samples), stacked)


def test_a_scalar_python_sample_and_a_bare_leaf_work():
    init_save, save, postprocess_save = js.save()
    state = init_save(0.0)
    for x in (1.0, 2.0):
        state, _ = save(state, True, x)
    assert postprocess_save(state)["samples"].tolist() == [1.0, 2.0]


def test_no_draw_at_all_gives_empty_arrays(tmp_path):
    for kind in STORED:
        init_save, _, postprocess_save = js.save(KINDS[kind](tmp_path))
        saved = postprocess_save(init_save({"x": jnp.zeros(3)}))
        assert int(saved["sample_count"]) == 0
        assert saved["samples"]["x"].shape == (0, 3)


@pytest.mark.parametrize("slots", [1, 2, 64])
def test_the_ring_may_be_of_any_size(slots, masks):
    init_save, save, postprocess_save = js.save(buffer_draws=slots)
    state = jax.jit(jax.vmap(program(init_save, save)))(jnp.arange(8), masks)
    check_chains(postprocess_save(state), masks)


def test_clock_and_steps_wrap_at_32_bits():
    init_save, save, postprocess_save = js.save(buffer_draws=4)
    state = init_save(jnp.int32(0))
    near = np.uint32(2**32 - 10)
    sessions = channel.find_receiver(int(state.receiver))
    sessions._lanes.add_sender(1).tick = int(near)
    state = state._replace(clock=jnp.array([near, 2**31 - 5], jnp.uint32), stop=near + 1)
    sessions._lanes._senders[()].steps = [2**31 - 6]
    state, _ = jax.lax.scan(lambda s, i: save(s, True, i), state, jnp.arange(40))
    assert postprocess_save(state)["samples"].tolist() == list(range(40))


def test_a_state_may_go_on_where_it_ended():
    init_save, save, postprocess_save = js.save(buffer_draws=4)
    run = jax.jit(
        lambda s, n: jax.lax.scan(lambda s, i: save(s, True, i + n), s, jnp.arange(10))[0]
    )
    state = run(run(init_save(jnp.int32(0)), 0), 10)
    assert postprocess_save(state)["samples"].tolist() == list(range(20))


def test_a_step_per_draw_is_kept_beside_it(tmp_path, masks):
    with js.ZarrCollector(tmp_path / "run.zarr") as collector:
        init_save, save, postprocess_save = js.save(collector, buffer_draws=16)
        postprocess_save(jax.vmap(program(init_save, save))(jnp.arange(8), masks))
    run = js.open_run(tmp_path / "run.zarr")
    for steps, mask in zip(run.iteration, np.asarray(masks), strict=True):
        assert steps[: mask.sum()].tolist() == np.flatnonzero(mask).tolist()


def test_chains_that_part_ways_after_they_came_together_are_exact(tmp_path):
    collector = js.ZarrCollector(tmp_path / "run.zarr", chunk_draws=8)
    init_save, save, postprocess_save = js.save(collector, buffer_draws=4)

    @functools.partial(jax.jit, static_argnums=3)
    def run(states, start, c, has_own_mask):
        def body(state, i, c):
            keep = (i + c) % 2 == 0 if has_own_mask else i % 2 == 0
            return save(state, keep, 1000 * c + i)

        scan = lambda s, c: jax.lax.scan(  # noqa: E731
            lambda s, i: body(s, i, c), s, start + jnp.arange(50)
        )[0]
        return jax.vmap(scan)(states, c)

    state = jax.vmap(lambda c: init_save(jnp.int32(0)), out_axes=0, axis_size=3)(jnp.arange(3))
    for start, own in ((0, False), (50, True), (100, False)):
        state = run(state, start, jnp.arange(3), own)
    found = postprocess_save(state)
    i = np.arange(150)
    for c in range(3):
        keep = np.where((i >= 50) & (i < 100), (i + c) % 2 == 0, i % 2 == 0)
        n = int(found["sample_count"][c])
        assert found["samples"][c, :n].tolist() == (1000 * c + i[keep]).tolist()
