"""100,000 paths of geometric Brownian motion into a store: gbm_paths.py TARGET N; on any ranks."""

import sys

import jax
import jax.numpy as jnp

import jaxstore as js

PARAMS = {"mu": 0.1, "sigma": 0.3, "dt": 1 / 64, "steps": 64}


def path(key, i, *, mu, sigma, dt, steps):
    """Euler and Maruyama for dx = mu x dt + sigma x dW, x(0) = 1."""

    def step(x, dw):
        x = x * (1 + mu * dt + sigma * dw)
        return x, x

    noise = jnp.sqrt(dt) * jax.random.normal(key, (steps,))
    end, path = jax.lax.scan(step, jnp.float32(1), noise)
    return {"end": end, "path": path[7::8]}


if __name__ == "__main__":
    target, n = sys.argv[1], int(sys.argv[2])
    js.ensemble(path, n, target, key=jax.random.key(7), params=PARAMS, progress=False)
