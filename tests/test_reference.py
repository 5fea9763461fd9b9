"""The examples of jax_sgmc.io's documentation print what its page prints, here too."""

import subprocess
import sys
import tempfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from collecting import KINDS, STORED
from jax.lax import scan

import jaxstore as io
import jaxstore as scheduler

PAGE = """
import jax.numpy as jnp
from jax.lax import scan
import jaxstore as io
import jaxstore as scheduler

dc = io.MemoryCollector()
init_save, save, postprocess_save = {triple}

def update(saving_state, it):
  saving_state = save(saving_state, jnp.mod(it, 2) == 0, {{'iteration': it}})
  return saving_state

static_information = scheduler.static_information(samples_collected=3)
saving_state = init_save({{'iteration': jnp.array(0)}}, {checkpoint}, static_information)
final_state, _ = scan(update, saving_state, jnp.arange(5))
saved_samples = postprocess_save(final_state, None)
print(saved_samples)
"""
COUNT = "'sample_count': Array(3, dtype=int32, weak_type=True)"


@pytest.mark.parametrize(
    ("triple", "checkpoint", "printed"),
    [
        ("io.save(dc)", "{}", f"{{{COUNT}, 'samples': {{'iteration': array([0, 2, 4], dtype=int32)}}}}"),  # noqa: E501
        ("io.no_save()", "None", f"{{{COUNT}, 'samples': {{'iteration': Array([0, 2, 4], dtype=int32)}}}}"),  # noqa: E501
    ],
)  # fmt: skip
def test_the_examples_of_save_and_no_save(triple, checkpoint, printed):
    program = PAGE.format(triple=triple, checkpoint=checkpoint)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == printed, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_reads_the_same_values_back_from_every_collector(kind, tmp_path):
    init_save, save, postprocess_save = io.save(KINDS[kind](tmp_path))
    information = scheduler.static_information(samples_collected=3)
    state = init_save({"iteration": jnp.array(0)}, {}, information)
    state, _ = scan(lambda s, i: save(s, i % 2 == 0, {"iteration": i}), state, jnp.arange(5))
    saved = postprocess_save(state, None)
    assert str(saved["sample_count"]) == "3"
    assert np.asarray(saved["samples"]["iteration"]).tolist() == [0, 2, 4]


def test_the_example_of_the_hdf5_collector(tmp_path):
    tf = tempfile.TemporaryFile()  # noqa: SIM115
    file = h5py.File(tf, "w")
    data_collector = io.HDF5Collector(file)
    init_save, save, postprocess_save = io.save(data_collector)
    sample = {"a": jnp.zeros(2), "b": {"c": jnp.zeros(())}}
    state, _ = save(init_save(sample), True, sample)
    postprocess_save(state)
    assert file["samples/b/c"].shape == (1, 1)  # the structure of the pytree, in the file
    assert file["samples/a"].shape == (1, 1, 2)
    file.close()
    tf.close()


@pytest.mark.parametrize("kind", STORED)
def test_single_draws_may_be_handed_to_the_built_in_collectors(kind, tmp_path):
    with KINDS[kind](tmp_path) as collector:
        sample = {"x": np.zeros(2, np.float32)}
        information = io.static_information(samples_collected=5)
        chains = [collector.register_chain(sample, None, information) for _ in range(2)]
        for i in range(5):
            for chain in chains:
                collector.save(chain, [np.full(2, 10 * chain + i, np.float32)])
        with pytest.raises(io.TooManyDrawsError):
            collector.save(0, [np.zeros(2, np.float32)])
        for chain in chains:
            collector.finalize(chain)
        for chain in chains:
            found = np.asarray(collector.finished(chain)["x"])
            assert found[:, 0].tolist() == [10 * chain + i for i in range(5)]


def test_a_memory_collector_writes_an_npz_per_chain(tmp_path):
    init_save, save, postprocess_save = io.save(io.MemoryCollector(tmp_path / "out"))

    def chain(c):
        def step(state, i):
            sample = {"x": c + i, "deep": {"b": jnp.asarray(i, jnp.bfloat16)}}
            return save(state, i % (c + 1) == 0, sample)

        state = init_save({"x": 0, "deep": {"b": jnp.zeros((), jnp.bfloat16)}})
        return scan(step, state, jnp.arange(6))[0]

    postprocess_save(jax.vmap(chain)(jnp.arange(2)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["chain_0.npz", "chain_1.npz"]
    for c, want in enumerate(([0, 1, 2, 3, 4, 5], [1, 3, 5])):
        with np.load(tmp_path / "out" / f"chain_{c}.npz") as file:
            assert file["x"].tolist() == want
            assert file["deep/b"].dtype == np.uint16
            assert "bfloat16" in str(file["jaxstore_dtypes"])


def test_chains_of_an_earlier_run_are_not_overwritten(tmp_path):
    init_save, save, postprocess_save = io.save(io.MemoryCollector(tmp_path))
    postprocess_save(save(init_save(0.0), True, 1.0)[0])
    with pytest.raises(io.ExistsError, match=r"chain_0\.npz"):
        io.MemoryCollector(tmp_path)
