"""Save draws into Zarr and print the peak memory of this process. Run by `save_memory`.

Usage: python memory_probe.py scan|triple PATH STEPS CHAINS FLOATS
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import walk
from resident import peak_bytes

import jaxstore as js


def by_scan(collector: Any, x: jax.Array, length: int) -> None:
    def step(carry: Any, _: None) -> Any:
        x, i = carry
        x, sample = walk.step(x, i)
        return (x, i + 1), {"x": sample}

    js.scan(step, (x, 0), length=length, chains=len(x), collector=collector, progress=False)


def by_triple(collector: Any, x: jax.Array, length: int) -> None:
    init_save, save, postprocess_save = js.save(collector)

    def chain(x: jax.Array) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            state, x = carry
            x, sample = walk.step(x, i)
            return save(state, True, {"x": sample})[0], x

        return jax.lax.fori_loop(0, length, body, (init_save({"x": x}), x))[0]

    postprocess_save(jax.jit(jax.vmap(chain))(x))


def main() -> None:
    how, path, length, n_chains, n_floats = sys.argv[1:]
    x = jnp.zeros((int(n_chains), int(n_floats)))
    with js.ZarrCollector(path) as collector:
        {"scan": by_scan, "triple": by_triple}[how](collector, x, int(length))
    print(peak_bytes())


if __name__ == "__main__":
    main()
