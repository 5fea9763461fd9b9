"""Ensembles: one member is one key, whoever computes it, when, and beside how many others."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processed import files

from jaxstore.errors import MismatchError
from jaxstore.processing import ensemble_simulation
from jaxstore.processing.beside import address_of
from jaxstore.processing.ensemble import ensemble
from jaxstore.processing.ensemble_items import Numbers
from jaxstore.processing.job import Job
from jaxstore.processing.result import Result
from jaxstore.stores.results import DONE

KEY = jax.random.key(7)
STORES = ("a.zarr", "a.h5")


def dice(key, i, *, sides=6):
    return {"throw": jax.random.key_data(key) % sides, "i": i}


def gbm_start(key, i, *, mu, sigma, dt):
    return jnp.zeros(())


def gbm_step(key, log_s, t, *, mu, sigma, dt):
    """Euler-Maruyama of geometric Brownian motion, in the logarithm, where it is exact."""
    noise = jax.random.normal(key)
    log_s = log_s + (mu - sigma**2 / 2) * dt + sigma * jnp.sqrt(dt) * noise
    return log_s, {"s": jnp.exp(log_s)}


def walk_start(key, i, *, by=1):
    return {"x": i * 0, "drawn": jax.random.key_data(key)}


def walk_step(key, state, t, *, by=1):
    x = state["x"] + by * (jax.random.key_data(key)[0] % 3).astype(jnp.int32)
    return {**state, "x": x}, {"x": x, "t": t, "pair": jnp.stack([x, t])}


def run(n, where, **settings):
    given = {"key": KEY, "chunks": 4, "batch_size": 4, "progress": False}
    return ensemble(dice, n, where, **(given | settings))


def walks(n, where, **settings):
    given = {"key": KEY, "init": walk_start, "length": 50, "chunks": 4, "batch_size": 4}
    return ensemble(walk_step, n, where, **(given | settings))


def interrupt(monkeypatch, *, after):
    """Let so many units be, then press Ctrl-C."""
    real, n = Job.run, [0]

    def run(self, unit, turn=None):
        n[0] += 1
        if n[0] > after:
            raise KeyboardInterrupt
        real(self, unit, turn)

    monkeypatch.setattr(Job, "run", run)


def values(result):
    return {name: np.asarray(result[name]) for name in result}


def assert_same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


class TestMembers:
    @pytest.mark.parametrize("key", [KEY, jax.random.PRNGKey(7), np.array([0, 7], np.uint32)])
    def test_each_is_what_its_key_gives(self, key):
        found = run(10, "memory", key=key)
        for i in range(10):
            alone = dice(jax.random.fold_in(jnp.asarray(key), i), i)
            assert found["throw"][i].tolist() == alone["throw"].tolist()
        assert found["i"][:].tolist() == [*range(10)]

    def test_engines_and_workers_change_no_bit(self, tmp_path):
        serial = run(21, tmp_path / "a.zarr", engine="serial")
        threads = run(21, tmp_path / "b.zarr", engine="threads", workers=3)
        assert_same(values(serial), values(threads))

    def test_key_and_params_are_kept_with_the_result(self):
        found = run(3, "memory", params={"sides": 2})
        assert found.params["sides"] == 2
        assert jax.random.key_data(found.params["key"]).tolist() == [0, 7]
        assert found.name == "ensemble-dice_000"

    @pytest.mark.parametrize(
        "change", [{"key": jax.random.key(8)}, {"params": {"sides": 2}}, {"name": "other"}]
    )
    def test_another_computation_is_another_result(self, tmp_path, change):
        first = run(3, tmp_path / "a.zarr")
        assert run(3, tmp_path / "a.zarr", **change).location != first.location

    def test_other_processes_can_make_the_numbers_themselves(self):
        assert pickle.loads(pickle.dumps(address_of(Numbers(5)))) == Numbers(5)

    def test_units_are_not_one_by_one_nor_all_at_once(self):
        assert 8 <= len(run(10_000, "memory", chunks=None, batch_size=None).status) <= 16


class TestGrowth:
    @pytest.mark.parametrize("name", STORES)
    @pytest.mark.parametrize("n", [8, 10])  # the last unit full, and not
    def test_more_members_continue_the_same_result(self, tmp_path, name, n):
        place = tmp_path / name
        first = run(n, place)
        before = values(first)
        grown = run(23, place)
        assert (grown.location, grown.n_items, grown.state) == (first.location, 23, "complete")
        assert_same(values(grown), values(run(23, "memory")))
        assert grown.verify().damage == ()
        assert_same(values(run(n, place)), before)

    def test_full_units_are_not_computed_again(self, tmp_path, monkeypatch):
        run(10, tmp_path / "a.zarr")
        done, real = [], Job.run
        monkeypatch.setattr(Job, "run", lambda *a: done.append(a[1]) or real(*a))
        run(23, tmp_path / "a.zarr")
        assert sorted(done) == [2, 3, 4, 5]  # of 10, unit 2 had two members

    @pytest.mark.parametrize("name", STORES)
    def test_fewer_members_are_the_first_ones_and_nothing_is_written(self, tmp_path, name):
        whole = run(23, tmp_path / name)
        before = files(tmp_path)
        few = run(10, tmp_path / name)
        assert few["throw"].shape == (10, 2)
        assert few["throw"][-1].tolist() == whole["throw"][9].tolist()
        assert (few.n_items, len(few.status), few.state) == (10, 3, "complete")
        assert few.verify().damage == ()
        assert whole.n_items == 23
        assert files(tmp_path) == before

    @pytest.mark.parametrize("name", STORES)
    @pytest.mark.parametrize("after", [0, 2])
    def test_a_growth_that_was_interrupted_shows_the_first_and_goes_on(
        self, tmp_path, monkeypatch, name, after
    ):
        place = tmp_path / name
        run(10, place)
        with monkeypatch.context() as patch:
            interrupt(patch, after=after)
            with pytest.raises(KeyboardInterrupt):
                run(23, place, engine="serial")
        expected = values(run(23, "memory"))
        few = run(10, place)
        assert (few.state, few.n_items) == ("complete", 10)
        # No more was computed for them than they need: units 0 and 1 were there.
        assert (Result(few.place, few.name).status == DONE).sum() == max(3, 2 + after)
        assert_same(values(few), {name: array[:10] for name, array in expected.items()})
        whole = run(23, place)
        assert (whole.state, whole.name) == ("complete", "ensemble-dice_000")
        assert_same(values(whole), expected)

    @pytest.mark.parametrize("step", ["set_marks", "resize", "set_manifest"])
    def test_a_growth_that_was_killed_while_it_made_room_loses_nothing(
        self, tmp_path, monkeypatch, step
    ):
        from jaxstore.stores.results_zarr import ZarrResult

        run(10, tmp_path / "a.zarr")
        real, n = getattr(ZarrResult, step), [0]

        def once(*args):
            n[0] += 1
            if n[0] == 2 or step == "set_marks":
                raise KeyboardInterrupt
            real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(ZarrResult, step, once)
            with pytest.raises(KeyboardInterrupt):
                run(23, tmp_path / "a.zarr")
        assert_same(values(run(10, tmp_path / "a.zarr")), values(run(10, "memory")))
        assert_same(values(run(23, tmp_path / "a.zarr")), values(run(23, "memory")))

    def test_resume_false_leaves_the_shorter_one_alone(self, tmp_path):
        run(10, tmp_path / "a.zarr")
        assert run(23, tmp_path / "a.zarr", resume=False).name == "ensemble-dice_001"

    def test_n_counts_where_members_are_reduced(self, tmp_path):
        mean = run(10, tmp_path / "a.zarr", reduce="mean")
        again = run(11, tmp_path / "a.zarr", reduce="mean")
        assert (mean["i"][()], again["i"][()]) == (4.5, 5.0)
        assert mean.name != again.name


class TestTrajectories:
    def test_they_are_those_of_a_plain_loop(self):
        found = walks(5, "memory", length=20, thin=3)
        assert found["x"].shape == (5, 6)
        assert found["pair"].dims == ("item", "time", "pair_dim_1")
        for i in range(5):
            key, state, kept = jax.random.fold_in(KEY, i), walk_start(KEY, i), []
            for t in range(18):
                state, out = walk_step(jax.random.fold_in(key, t), state, t)
                kept += [int(out["x"])] * (t % 3 == 2)
            assert found["x"][i].tolist() == kept
        assert found["t"][0].tolist() == [2, 5, 8, 11, 14, 17]

    @pytest.mark.parametrize("name", STORES)
    def test_blocks_change_no_bit_and_bound_what_is_held(self, tmp_path, monkeypatch, name):
        params = {"mu": 0.1, "sigma": 0.3, "dt": 0.01}
        given = {
            "key": KEY,
            "init": gbm_start,
            "length": 101,
            "params": params,
            "chunks": 8,
            "batch_size": 8,
        }
        whole = ensemble(gbm_step, 11, "memory", **given)
        assert whole["s"].spec.chunks == (8, 101)
        monkeypatch.setattr(ensemble_simulation, "_BLOCK_BYTES", 40)
        blocks = ensemble(gbm_step, 11, tmp_path / name, **given)
        assert blocks["s"].spec.chunks == (8, 10)
        assert_same(values(whole), values(blocks))
        assert blocks.verify().damage == ()
        grown = ensemble(gbm_step, 13, tmp_path / name, **given)
        assert grown["s"].spec.chunks == (8, 10)
        assert_same(values(blocks), {"s": grown["s"][:11]})

    def test_one_that_was_interrupted_begins_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ensemble_simulation, "_BLOCK_BYTES", 64)
        expected = values(walks(10, "memory"))
        with monkeypatch.context() as patch:
            stop_writing(patch, after=50)
            with pytest.raises(OSError, match="no more"):
                walks(10, tmp_path / "a.zarr", engine="serial")
        found = walks(10, tmp_path / "a.zarr")
        assert_same(values(found), expected)
        assert len(found.provenance["sessions"]) == 2
        assert found.provenance["sessions"][1]["units"] == 2  # one of the three was marked

    def test_the_key_of_init_is_none_of_those_of_the_steps(self):
        def init(key, i):
            return jnp.stack([jax.random.key_data(k) for k in (key, *jax.random.split(key, 3))])

        def step(key, state, t):
            return state, {"clash": (state == jax.random.key_data(key)).all(-1).any()}

        found = ensemble(step, 4, "memory", key=KEY, init=init, length=10)
        assert not found["clash"][:].any()

    def test_they_reduce_to_a_mean_path(self):
        found = walks(6, "memory", reduce="sum", length=9)
        assert found["x"].shape == (9,)
        assert found["x"][:].tolist() == walks(6, "memory", length=9)["x"][:].sum(0).tolist()

    @pytest.mark.parametrize("name", STORES)
    def test_geometric_brownian_motion_has_its_moments(self, tmp_path, name):
        n, length, dt, mu, sigma = 4000, 100, 0.01, 0.1, 0.4
        found = ensemble(
            gbm_step,
            n,
            tmp_path / name,
            key=jax.random.key(3),
            init=gbm_start,
            length=length,
            thin=50,
            params={"mu": mu, "sigma": sigma, "dt": dt},
            batch_size=1000,
            chunks=2000,
        )
        for k, time in enumerate((0.5, 1.0)):
            s = found["s"][:, k].astype("f8")
            mean = np.exp(mu * time)
            variance = mean**2 * (np.exp(sigma**2 * time) - 1)
            assert abs(s.mean() - mean) < 5 * np.sqrt(variance / n)
            # Of a sample variance, by the fourth moment of the sample.
            spread = np.sqrt((((s - s.mean()) ** 2 - variance) ** 2).mean() / n)
            assert abs(s.var() - variance) < 5 * spread


class TestRefusals:
    @pytest.mark.parametrize("key", [0, jax.random.split(KEY, 3), np.zeros((3, 2), np.uint32)])
    def test_what_is_no_single_key(self, key):
        with pytest.raises(MismatchError, match=r"Give one key, such as jax.random.key\(0\)"):
            run(3, "memory", key=key)

    def test_a_parameter_that_is_called_key(self):
        with pytest.raises(MismatchError, match="key of the ensemble"):
            run(3, "memory", params={"key": 1})

    @pytest.mark.parametrize("part", [{"length": 3}, {"init": walk_start}, {"thin": 2}])
    def test_half_of_what_steps_need(self, part):
        with pytest.raises(MismatchError, match="go together"):
            ensemble(walk_step, 3, "memory", key=KEY, **part)

    def test_functions_that_do_not_take_the_parameters(self):
        with pytest.raises(MismatchError, match=r"dice\(key, i, .*called as simulate\(key, i, "):
            run(3, "memory", params={"side": 2})
        with pytest.raises(MismatchError, match=r"called as step\(key, state, t, "):
            ensemble(dice, 3, "memory", key=KEY, init=walk_start, length=3)

    def test_recording_failures_of_trajectories(self):
        with pytest.raises(MismatchError, match="on_error='record' does not go with length"):
            walks(3, "memory", on_error="record")

    @pytest.mark.parametrize("n", [0, 2**31])
    def test_a_number_of_members_that_is_none(self, n):
        with pytest.raises(ValueError, match="n must be in"):
            run(n, "memory")


def stop_writing(monkeypatch, *, after):
    from jaxstore.stores.results_zarr import ZarrResult

    real, n = ZarrResult.write, [0]

    def write(self, name, start, values):
        n[0] += not name.startswith("_params")
        if n[0] > after:
            raise OSError("no more")
        real(self, name, start, values)

    monkeypatch.setattr(ZarrResult, "write", write)
