"""Arrays in memory: taken as they are, without a copy, whoever made them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from row_sources import rows_of

from jaxstore.errors import FormatError
from jaxstore.sources import fetch_memory
from jaxstore.sources.fetch_memory import memory_arrays

RNG = np.random.default_rng(0)


class Elsewhere:
    """An array of another library, on one of its devices."""

    def __init__(self, values, device):
        self.values, self.device = values, device

    def __dlpack__(self, **keywords):
        return self.values.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "?", "c8", "i8", ml_dtypes.bfloat16])
def test_rows_are_those_of_the_array(monkeypatch, axis, dtype):
    monkeypatch.setattr(fetch_memory, "CHUNK_BYTES", 100)
    values = (RNG.normal(size=(11, 5, 7)) * 3).astype(dtype)
    for array in (values, np.asfortranarray(values), values[::-1]):
        source = memory_arrays({"x": array}, axis=axis)["x"]
        assert source.geometry.n_chunks > 1
        assert source.geometry.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(rows_of(source), np.moveaxis(array, axis, 0))


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, lambda x: Elsewhere(x, (1, 0))])
def test_nothing_is_copied_when_it_is_opened(make):
    array = make(np.arange(24, dtype="f4").reshape(6, 4))
    shared = np.from_dlpack(array)
    rows = memory_arrays({"x": array}, axis=1)["x"].rows
    assert np.shares_memory(rows, shared)
    np.testing.assert_array_equal(rows, shared.T)


def test_read_only_arrays_are_read():
    array = np.arange(6.0)
    array.flags.writeable = False
    np.testing.assert_array_equal(rows_of(memory_arrays({"x": array})["x"]), array)


def test_axes_differ_by_name():
    found = memory_arrays({"x": np.zeros((2, 3)), "y": np.zeros((2, 3))}, axis={"y": 1})
    assert [source.geometry.n_samples for source in found.values()] == [2, 3]


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0,)])
def test_arrays_without_elements_are_taken(shape):
    assert rows_of(memory_arrays({"x": np.zeros(shape)})["x"]).shape == shape


def test_arrays_of_jax_with_dtypes_that_dlpack_does_not_share_are_taken():
    array = jnp.arange(6, dtype="bfloat16")
    rows = rows_of(memory_arrays({"x": array})["x"])
    assert rows.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(rows, np.asarray(array))


def test_arrays_of_jax_over_several_devices_of_the_host_are_taken():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "d")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    array = jax.device_put(jnp.arange(8.0), sharding)
    np.testing.assert_array_equal(rows_of(memory_arrays({"x": array})["x"]), np.arange(8.0))


@pytest.mark.parametrize("device", [(2, 0), (10, 1)])
def test_an_array_in_the_memory_of_a_device_is_refused_with_a_way_out(device):
    with pytest.raises(TypeError, match=r"'x' is a Elsewhere in the memory of a .*\.cpu\(\)"):
        memory_arrays({"x": Elsewhere(np.zeros(3), device)})


def test_memory_of_the_host_that_a_device_has_pinned_is_taken():
    # NumPy goes by what the capsule says, which here is plain memory.
    found = memory_arrays({"x": Elsewhere(np.arange(3.0), (3, 0))})
    np.testing.assert_array_equal(rows_of(found["x"]), np.arange(3.0))


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ([1, 2], TypeError, "'x' is a list, not an array"),
        (np.array(["a"]), FormatError, "'x' holds elements of <U1"),
        (np.array([{}]), FormatError, "'x' holds elements of object"),
        (np.zeros(3, [("a", "i4")]), FormatError, "are no numbers"),
        (np.zeros(3, "M8[s]"), FormatError, "are no numbers"),
        (np.zeros(3, "V4"), FormatError, "are no numbers"),
        (np.float32(3), TypeError, "'x' is a float32, not an array"),
        (np.array(3.0), FormatError, "'x' is a single value"),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), TypeError, "masked array, whose mask would be"),
        (jax.random.split(jax.random.key(0)), FormatError, "PRNG keys. Give `jax.random.key_data"),
    ],
)
def test_what_has_no_rows_of_numbers_is_refused(values, error, match):
    with pytest.raises(error, match=match):
        memory_arrays({"x": values})
