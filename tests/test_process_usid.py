"""A measurement as pyUSID lays it out, fitted at each position.

The layout is that of https://pycroscopy.github.io/USID/usid_model.html: a main dataset of positions
by spectroscopic steps, and four ancillary datasets that its attributes refer to.
"""

from __future__ import annotations

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js

ROWS, COLUMNS, STEPS = 9, 7, 48
CHANNEL = "Measurement_000/Channel_000"
FREQUENCY = np.linspace(300.0, 350.0, STEPS, dtype="float32")  # kHz


def resonance(frequency, *, height, centre, width):
    """A Lorentzian line."""
    return height * width**2 / ((frequency - centre) ** 2 + width**2)


@pytest.fixture
def truth():
    rng = np.random.default_rng(3)
    n = ROWS * COLUMNS
    return {
        "height": rng.uniform(1, 3, n).astype("float32"),
        "centre": rng.uniform(315, 335, n).astype("float32"),
        "width": rng.uniform(2, 5, n).astype("float32"),
    }


@pytest.fixture
def path(tmp_path, truth):
    """A file with a main dataset, its four ancillary ones, and what else such files hold."""
    path = tmp_path / "measurement.h5"
    noise = np.random.default_rng(4).normal(0, 0.01, (ROWS * COLUMNS, STEPS))
    raw = resonance(FREQUENCY, **{k: v[:, None] for k, v in truth.items()}) + noise
    with h5py.File(path, "w") as file:
        file.attrs.update({"data_type": "BEPS", "pyUSID_version": "0.0.12"})
        channel = file.create_group(CHANNEL)
        main = channel.create_dataset("Raw_Data", data=raw.astype("float32"), compression="gzip")
        main.attrs.update({"quantity": "Amplitude", "units": "nm"})
        positions = np.array([(x, y) for y in range(ROWS) for x in range(COLUMNS)], "uint32")
        ancillary = {
            "Position_Indices": (positions, ["X", "Y"], ["um", "um"]),
            "Position_Values": (positions.astype("float32") * 0.5, ["X", "Y"], ["um", "um"]),
            "Spectroscopic_Indices": (np.arange(STEPS, dtype="uint32")[None], ["f"], ["kHz"]),
            "Spectroscopic_Values": (FREQUENCY[None], ["f"], ["kHz"]),
        }
        for name, (values, labels, units) in ancillary.items():
            dataset = channel.create_dataset(name, data=values)
            dataset.attrs.update({"labels": labels, "units": units})
            main.attrs[name] = dataset.ref
    return path


def fit(amplitude, *, frequency, steps):
    """Least squares by Gauss and Newton with damping, from the highest point on."""
    frequency = jnp.asarray(frequency)

    def line(p):
        return resonance(frequency, height=p[0], centre=p[1], width=p[2])

    def step(p, _):
        jacobian, residual = jax.jacfwd(line)(p), amplitude - line(p)
        normal = jacobian.T @ jacobian + 1e-3 * jnp.eye(3)
        return p + jnp.linalg.solve(normal, jacobian.T @ residual), None

    top = jnp.argmax(amplitude)
    start = jnp.stack([amplitude[top], frequency[top], 3.0])
    p, _ = jax.lax.scan(step, start, length=steps)
    return {
        "fit": {"height": p[0], "centre": p[1], "width": p[2]},
        "error": jnp.std(amplitude - line(p)),
    }


SETTINGS = {"params": {"frequency": FREQUENCY, "steps": 25}, "name": "SHO_Fit", "chunks": 10}


def everything(path):
    """All of a file but results, as it is."""
    found = {}

    def keep(name, item):
        if "-SHO_Fit_" in name:
            return
        found[name] = {
            key: repr(value)
            for key, value in item.attrs.items()
            if not isinstance(value, h5py.Reference)
        }
        if isinstance(item, h5py.Dataset):
            found[name] |= {
                "values": item[()].tobytes(),
                "chunks": item.chunks,
                "dtype": item.dtype,
            }

    with h5py.File(path) as file:
        file.visititems(keep)
    return found


def test_the_fit_at_each_position_is_that_of_a_plain_loop(path, truth):
    before = everything(path)
    result = js.process(fit, f"{path}:/{CHANNEL}/Raw_Data", **SETTINGS)
    assert result.name == "Raw_Data-SHO_Fit_000"
    with h5py.File(path) as file:
        raw = file[f"{CHANNEL}/Raw_Data"][:]
    alone = jax.jit(lambda x: fit(x, **SETTINGS["params"]))
    loop = [alone(spectrum) for spectrum in raw]
    for name in ("height", "centre", "width"):
        found = result[f"fit/{name}"][:]
        np.testing.assert_allclose(found, [float(p["fit"][name]) for p in loop], rtol=2e-4)
        np.testing.assert_allclose(found, truth[name], rtol=0.05)
    np.testing.assert_allclose(result["error"][:], [float(p["error"]) for p in loop], rtol=1e-3)
    assert everything(path) == before


def test_it_lies_beside_its_source_and_other_programs_read_it(path):
    js.process(fit, f"{path}:/{CHANNEL}/Raw_Data", **SETTINGS).close()
    with h5py.File(path) as file:
        group = file[CHANNEL]
        assert "Raw_Data-SHO_Fit_000" in group
        centres = group["Raw_Data-SHO_Fit_000/fit/centre"][:]
        assert centres.shape == (ROWS * COLUMNS,)
        assert np.isfinite(centres).all()
        main = group["Raw_Data"]
        assert file[main.attrs["Spectroscopic_Values"]].shape == (1, STEPS)  # references hold


def test_an_array_beside_the_main_one_gives_the_positions_in_step(path):
    def weighted(item):
        spectrum, position = item
        return {"x": position[0], "sum": spectrum.sum()}

    source = (f"{path}:/{CHANNEL}/Raw_Data", f"{path}:/{CHANNEL}/Position_Values")
    result = js.process(weighted, source, "memory")
    with h5py.File(path) as file:
        values = file[f"{CHANNEL}/Position_Values"][:]
        raw = file[f"{CHANNEL}/Raw_Data"][:]
    np.testing.assert_array_equal(result["x"][:], values[:, 0])
    np.testing.assert_allclose(result["sum"][:], raw.sum(1), rtol=1e-5)
