"""Processes as classes: all that pyUSID's and Syncopy's do, and none of what they did wrong."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processed import QUIET, bits, files, hdf5_file, waves, zarr_file

from jaxstore.errors import MismatchError, MissingError
from jaxstore.processing.job import Job
from jaxstore.processing.process import process
from jaxstore.processing.process_class import Process


class Peak(Process):
    process_name = "peak"

    def kernel(self, x, *, by=1.0):
        return {"top": jnp.max(x) * by, "at": jnp.argmax(x)}


class Peaks(Process):
    def batch_kernel(self, items, *, by=1.0):
        return {"top": jnp.max(items, axis=1) * by, "at": jnp.argmax(items, axis=1)}


class Calibrated(Peak):
    """Host code on both sides, and words on the result."""

    version = "2"
    gain = 2.0

    def read(self, values, items):
        return values * np.float32(self.gain) + items[:, None].astype("f4")

    def write(self, outputs):
        return {**outputs, "at": outputs["at"] + 100}

    def metadata(self, result):
        return {"highest": float(result["top"][:].max())}


def make(cls, source, target="memory", **settings):
    return cls(source, target, **({"chunks": 4, "batch_size": 4} | QUIET | settings))


def interrupt(monkeypatch, *, after):
    """Let so many units be, then press Ctrl-C."""
    real, n = Job.run, [0]

    def run(self, unit, turn=None):
        n[0] += 1
        if n[0] > after:
            raise KeyboardInterrupt
        real(self, unit, turn)

    monkeypatch.setattr(Job, "run", run)


@pytest.fixture(params=["zarr", "hdf5"])
def source(request, tmp_path):
    if request.param == "zarr":
        return zarr_file(tmp_path / "a.zarr", waves())
    return hdf5_file(tmp_path / "a.h5", waves(), chunks=(4, 6))


class TestCompute:
    def test_it_is_what_the_function_gives(self):
        found = make(Peak, waves(), params={"by": 2.0}).compute()
        plain = process(lambda x: {"top": jnp.max(x) * 2.0, "at": jnp.argmax(x)}, waves(), "memory")
        assert bits(found) == bits(plain)
        assert found.params == {"by": 2.0}
        assert found.name == "x-peak_000"
        assert bits(make(Peaks, waves(), params={"by": 2.0}).compute()) == bits(plain)

    def test_override_twice_on_one_object_makes_two_groups_and_leaves_the_older(self, source):
        one = make(Peak, source, None)
        results = [one.compute(), one.compute(override=True), one.compute(override=True)]
        names = [result.name for result in results]
        assert names == ["raw-peak_000", "raw-peak_001", "raw-peak_002"]
        assert one.compute().name == "raw-peak_002"
        assert [result.name for result in one.duplicates] == names
        assert bits(results[0]) == bits(results[2])

    def test_override_leaves_the_bytes_of_older_results(self, tmp_path):
        one = make(Peak, waves(), tmp_path / "r.zarr")
        one.compute()
        before = files(tmp_path / "r.zarr/x-peak_000")
        one.compute(override=True)
        assert files(tmp_path / "r.zarr/x-peak_000") == before

    def test_a_subclass_without_a_word_on_resuming_resumes(self, source, monkeypatch):
        one = make(Peak, source, None, engine="serial")
        with monkeypatch.context() as patch:
            interrupt(patch, after=2)
            with pytest.raises(KeyboardInterrupt):
                one.compute()
        assert [result.name for result in one.partials] == ["raw-peak_000"]
        assert one.duplicates == []
        done = []
        real = Job.run
        monkeypatch.setattr(Job, "run", lambda *a: done.append(a[1]) or real(*a))
        found = make(Peak, source, None).compute()
        assert (found.name, found.state, sorted(done)) == ("raw-peak_000", "complete", [2, 3, 4])
        assert bits(found) == bits(make(Peak, waves()).compute())

    def test_a_partial_one_is_chosen_by_hand(self, tmp_path, monkeypatch):
        one = make(Peak, waves(), tmp_path / "r.zarr", engine="serial")
        with pytest.raises(MissingError, match="no partial result"):
            one.use_partial_computation()
        with monkeypatch.context() as patch:
            for after in (1, 0):
                interrupt(patch, after=after)
                with pytest.raises(KeyboardInterrupt):
                    one.compute(override=True)
                patch.undo()
        one.use_partial_computation(one.partials[0])
        assert one.compute().name == "x-peak_000"
        assert [result.name for result in one.partials] == ["x-peak_001"]

    def test_looking_for_earlier_results_writes_nothing(self, source, tmp_path, monkeypatch):
        one = make(Peak, source, None, engine="serial")
        with monkeypatch.context() as patch:
            interrupt(patch, after=2)
            with pytest.raises(KeyboardInterrupt):
                one.compute()
        before = files(tmp_path)
        other = make(Peak, source, None)
        assert len(other.partials) == 1
        assert other.duplicates == []
        assert "raw-peak_000 is continued" in str(other.plan())
        assert files(tmp_path) == before

    def test_attributes_that_the_kernel_uses_are_compared(self, tmp_path):
        class Scaled(Process):
            def __init__(self, scale, *args, **settings):
                self.scale = scale
                super().__init__(*args, **settings)

            def kernel(self, x):
                return x.sum() * self.scale

        for scale, name in ((1.0, "x-Scaled_000"), (2.0, "x-Scaled_001"), (1.0, "x-Scaled_000")):
            assert Scaled(scale, waves(), tmp_path / "r.zarr", **QUIET).compute().name == name

    def test_compute_takes_nothing_that_is_not_compared(self):
        with pytest.raises(TypeError, match="unexpected keyword"):
            make(Peak, waves()).compute(by=3.0)

    def test_status_rank_and_size(self):
        one = make(Peak, waves())
        with pytest.raises(MissingError, match="no result yet"):
            _ = one.status
        one.compute()
        assert one.status.tolist() == [1] * 5
        assert (one.mpi_rank, one.mpi_size) == (0, 1)

    def test_verbose_prints_the_plan(self, capsys):
        make(Peak, waves(), verbose=True).compute()
        assert "20 in 5 units of 4" in capsys.readouterr().out

    def test_trials_are_averaged_and_channels_cut(self):
        mean = make(Peak, waves(), reduce="mean").compute()
        assert mean["top"].shape == ()

        class Twice(Process):
            def kernel(self, x):
                return x * 2

        found = make(Twice, waves(), chan_per_worker=4).compute()
        np.testing.assert_array_equal(found["result"][:], waves() * 2)


class TestHooks:
    def test_read_write_and_metadata(self, tmp_path):
        one = make(Calibrated, waves(), tmp_path / "r.zarr")
        found = one.compute()
        changed = waves() * np.float32(2) + np.arange(20, dtype="f4")[:, None]
        np.testing.assert_array_equal(found["top"][:], changed.max(1))
        np.testing.assert_array_equal(found["at"][:], changed.argmax(1) + 100)
        assert found.provenance["attrs"] == {"highest": float(changed.max())}
        tried = one.test([3, 17])
        np.testing.assert_array_equal(tried["top"], found["top"][:][[3, 17]])
        np.testing.assert_array_equal(tried["at"], found["at"][:][[3, 17]])

    def test_metadata_that_fails_leaves_the_result_to_be_finished(self, tmp_path, monkeypatch):
        def fail(self, result):
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(Calibrated, "metadata", fail)
            with pytest.raises(ZeroDivisionError):
                make(Calibrated, waves(), tmp_path / "r.zarr").compute()
        found = make(Calibrated, waves(), tmp_path / "r.zarr").compute()
        assert (found.name, found.state) == ("x-peak_000", "complete")
        assert "highest" in found.provenance["attrs"]

    def test_host_code_needs_a_version(self):
        class Hidden(Peak):
            def read(self, values, items):
                return values

        with pytest.raises(MismatchError, match="its own read, whose changes no comparison"):
            make(Hidden, waves())

    def test_write_may_not_make_other_arrays(self):
        class Wrong(Peak):
            version = "1"

            def write(self, outputs):
                return {"top": outputs["top"]}

        with pytest.raises(MismatchError, match="Only values may change"):
            make(Wrong, waves()).compute()


class TestBefore:
    def test_test_gives_what_compute_stores(self):
        one = make(Peak, waves(), params={"by": 0.3})
        found = one.compute()
        for name, values in one.test([3, 17, 0]).items():
            assert values.tobytes() == found[name][:][[3, 17, 0]].tobytes()

    def test_debug_runs_the_kernel_on_values_in_this_thread(self):
        seen = []

        class Looking(Process):
            def kernel(self, x):
                seen.append(x)
                return jax.jit(jnp.max)(x)

        one = make(Looking, waves())
        seen.clear()
        assert float(one.debug(3)) == waves()[3].max()
        assert not isinstance(seen[-1], jax.core.Tracer)
        np.testing.assert_array_equal(seen[-1], waves()[3])

    def test_plan_tells_all_and_writes_nothing(self, tmp_path):
        plan = make(Peak, waves(), tmp_path / "r.zarr").plan()
        assert (plan.n_items, plan.unit_items, plan.n_units) == (20, 4, 5)
        assert not (tmp_path / "r.zarr").exists()


class TestAgain:
    def test_a_result_says_how_to_ask_for_it_again(self, tmp_path):
        source = zarr_file(tmp_path / "a.zarr", waves())
        settings = {"params": {"by": np.ones(())}, "select": [3, 1, 9], "dtype": "f4"}
        found = make(Peak, source, tmp_path / "r.zarr", **settings).compute()
        again = Peak.again(found, **QUIET)
        assert again.params == {"by": np.ones(())}
        assert [result.name for result in again.duplicates] == [found.name]
        assert again.compute().location == found.location

    def test_a_source_in_memory_has_to_be_given(self):
        found = make(Peak, waves()).compute()
        with pytest.raises(MissingError, match="Give source="):
            Peak.again(found)
        assert Peak.again(found, source=waves()).compute().location == found.location

    def test_the_log_tells_settings_versions_and_sessions(self):
        one = make(Peak, waves(), params={"by": 2.0}, engine="threads", workers=2)
        one.compute()
        for told in (
            "params = {'by': 2.0}",
            "name = 'peak'",
            "jax ",
            "Z, 5 units, threads 2, ",
        ):
            assert told in one.log

    def test_workers_elsewhere_get_the_kernel_without_open_handles(self, tmp_path):
        one = make(Peak, waves(), tmp_path / "r.zarr")
        one.compute()
        copy = pickle.loads(pickle.dumps(one))
        assert (copy.source, copy.target, copy.result) == (None, None, None)
        assert copy.kernel(jnp.arange(3.0))["top"] == 2


class TestRefusals:
    def test_no_kernel_or_two(self):
        class Both(Peak):
            batch_kernel = Peaks.batch_kernel

        with pytest.raises(TypeError, match=r"Process has \[\]. Give kernel"):
            Process(waves())
        with pytest.raises(TypeError, match="Both has .*one of them"):
            Both(waves())

    @pytest.mark.parametrize(
        ("old", "here"),
        [
            ("cores", "workers"),
            ("max_mem_mb", "memory"),
            ("h5_target_group", "target"),
            ("keeptrials", "reduce"),
            ("parallel_debug", "engine='serial'"),
            ("mem_multiplier", "measured"),
        ],
    )
    def test_names_of_others_lead_to_those_here(self, old, here):
        with pytest.raises(TypeError, match=f"Peak has no '{old}'. Here it is .*{here}"):
            Peak(waves(), **{old: 1})

    def test_a_setting_that_is_none_is_refused_at_once(self):
        with pytest.raises(TypeError, match="unexpected keyword"):
            Peak(waves(), color=1)
        with pytest.raises(ValueError, match="chunks must be >= 1"):
            Peak(waves(), chunks=0)
