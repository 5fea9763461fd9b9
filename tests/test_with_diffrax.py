"""Diffrax solutions that stream to disk, written as its users would write them."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from collecting import assert_same, same

import jaxstore as js

THETA, SIGMA = 2.0, 0.5  # of an Ornstein-Uhlenbeck process
STEPS, DT = 64, 1 / 64
SOLVER = diffrax.Heun()


def drift(t, y, args):
    return -THETA * y


def diffusion(t, y, args):
    return SIGMA


def terms(path):
    return diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path))


def tree(key):
    return diffrax.VirtualBrownianTree(0, STEPS * DT, tol=DT / 2, shape=(), key=key)


def solve(path, y, t0, t1, saveat):
    adjoint = diffrax.ForwardMode()  # which takes any kind of path
    return diffrax.diffeqsolve(
        terms(path), SOLVER, t0, t1, DT, y, saveat=saveat, adjoint=adjoint
    )  # fmt: skip


def assert_is_the_process(end):
    """Mean and deviation at time 1 of paths that begin at 1."""
    sd = SIGMA * np.sqrt((1 - np.exp(-2 * THETA)) / (2 * THETA))
    assert abs(end.mean() - np.exp(-THETA)) < 4 * sd / np.sqrt(end.size)
    assert abs(end.std() - sd) < 4 * sd / np.sqrt(2 * end.size)


def test_every_step_of_an_ensemble(tmp_path):
    """Paths are chains, each with a Brownian motion of its own."""
    keys = jax.random.split(jax.random.key(0), 256)

    @jax.vmap
    def one_step(carry):
        key, t, y = carry
        y, *_ = SOLVER.step(terms(tree(key)), t, t + DT, y, None, None, made_jump=False)
        return (key, t + DT, y), {"y": y, "t": t + DT}

    first = keys, jnp.zeros(256), jnp.ones(256)
    with js.HDF5Collector(tmp_path / "paths.h5") as collector:
        _, run = js.scan(
            lambda carry, _: one_step(carry), first, length=STEPS, chains=256, thin=4,
            collector=collector,
        )  # fmt: skip
        y, t = run.samples["y"][:], run.samples["t"][0]
    assert y.shape == (256, STEPS // 4)
    assert_is_the_process(y[:, -1])
    assert np.allclose(t, DT * np.arange(4, STEPS + 1, 4))


def test_chunks_of_a_solution_as_samples(tmp_path):
    """Each step of the scan solves for a while; only that much is ever on the device."""
    keys = jax.random.split(jax.random.key(1), 256)
    per_chunk = 8

    def step(carry, _):
        i, ys = carry
        ts = (i * per_chunk + 1 + jnp.arange(per_chunk)) * DT

        def one_path(key, y):
            path = diffrax.UnsafeBrownianPath(shape=(), key=jax.random.fold_in(key, i))
            return solve(path, y, ts[0] - DT, ts[-1], diffrax.SaveAt(ts=ts)).ys

        chunk = jax.vmap(one_path)(keys, ys)
        return (i + 1, chunk[:, -1]), {"y": chunk}

    def integrate(n_chunks):
        collector = js.ZarrCollector(tmp_path / "paths.zarr", dims={"y": ["time"]})
        return js.scan(
            step, (0, jnp.ones(256)), length=n_chunks, chains=256, collector=collector, resume=True
        )  # fmt: skip

    integrate(3)
    (_, ys), run = integrate(STEPS // per_chunk)  # further
    chunks = run.samples["y"][:]
    assert chunks.shape == (256, STEPS // per_chunk, per_chunk)
    assert same(chunks[:, -1, -1], ys)
    assert_is_the_process(chunks[:, -1, -1])


def test_an_ensemble_of_solutions(tmp_path):
    """`diffeqsolve` as the function of one member, whose key is that of its path."""

    def simulate(key, i, *, y0):
        path = diffrax.UnsafeBrownianPath(shape=(), key=key)
        found = solve(path, y0, 0.0, 1.0, diffrax.SaveAt(ts=jnp.array([0.5, 1.0])))
        return {"y": found.ys, "n_steps": found.stats["num_steps"]}

    key = jax.random.key(2)
    found = js.ensemble(simulate, 256, tmp_path / "e.zarr", key=key, params={"y0": 1.0}, chunks=64)
    assert found["y"].shape == (256, 2)
    assert set(found["n_steps"][:].tolist()) == {STEPS}
    assert_is_the_process(found["y"][:, 1])


def test_snapshots_of_a_field_beside_a_number_of_each_step(tmp_path):
    """A heat equation in a loop of one's own, with a collector for each of the two."""
    dx = 1 / 32
    x = jnp.arange(0, 1, dx)

    def heat(t, u, args):
        return 0.01 * (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)) / dx**2

    term, snapshots = diffrax.ODETerm(heat), jnp.array([0, 10, 99])
    fields = js.ZarrCollector(tmp_path / "fields.zarr", dims={"u": ["x"]}, coords={"x": x})
    energies = js.HDF5Collector(tmp_path / "energies.h5")
    with fields, energies:
        init_fields, save_field, finish_fields = js.save(fields)
        init_energies, save_energy, finish_energies = js.save(energies)

        @jax.jit
        def integrate(u):
            def step(carry, i):
                field, energy, u = carry
                t = i * 0.01
                u, *_ = SOLVER.step(term, t, t + 0.01, u, None, None, made_jump=False)
                field, _ = save_field(field, jnp.isin(i, snapshots), {"u": u})
                content = {"energy": jnp.sum(u**2) * dx}
                energy, _ = save_energy(energy, True, content)
                return (field, energy, u), (u, content)

            carry = init_fields({"u": u}), init_energies({"energy": u[0]}), u
            (field, energy, _), stacked = jax.lax.scan(step, carry, jnp.arange(100))
            return field, energy, stacked

        field, energy, (us, stacked) = integrate(jnp.exp(-100 * (x - 0.5) ** 2))
        assert same(finish_fields(field)["samples"]["u"][:], us[snapshots])
        assert_same(finish_energies(energy)["samples"], stacked)
    assert js.open_run(tmp_path / "fields.zarr").iteration[0].tolist() == snapshots.tolist()
