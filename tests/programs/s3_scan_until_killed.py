"""Samples into a store until it is killed; the draws are known to whoever imports this.

python s3_scan_until_killed.py URL [LENGTH]

`sampled(collector, length)` gives the same draws into any collector: 4 chains of a stochastic
kernel, kept by a mask per chain, so that chains come out of step. LENGTH lets it come to an end.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

import jaxstore as js
from jaxstore.saving import recorder

N_CHAINS = 4
ENDLESS = 1_000_000  # steps; takes much longer than anybody waits
CHUNK_DRAWS = 25


def step(carry: Any, _: Any) -> tuple[Any, Any]:
    key, x = carry
    key, proposal_key, accept_key = jax.random.split(key, 3)
    proposal = x + jax.random.normal(proposal_key, x.shape)
    log_ratio = 0.5 * ((x**2).sum(1) - (proposal**2).sum(1))
    accepted = jnp.log(jax.random.uniform(accept_key, (N_CHAINS,))) < log_ratio
    x = jnp.where(accepted[:, None], proposal, x)
    return (key, x), {"x": x, "stats": {"accepted": accepted}}


def keep(i: jax.Array) -> jax.Array:
    """Each chain keeps draws of its own, about half of them."""
    key = jax.random.fold_in(jax.random.key(1), i)
    return jax.random.uniform(key, (N_CHAINS,)) < jnp.array([0.8, 0.6, 0.4, 0.2])


def sampled(collector: Any, length: int, **options: Any) -> Any:
    carry = (jax.random.key(0), jnp.zeros((N_CHAINS, 3)))
    return js.scan(
        step, carry, length=length, chains=N_CHAINS, keep=keep, collector=collector, **options
    )[1]


if __name__ == "__main__":
    url, *length = sys.argv[1:]
    # It commits whenever it may, so that many a kill falls into a commit, and little waits in
    # memory, so that what is killed is at work on the store.
    recorder.COMMIT_SHARE = 1e9
    collector = js.ZarrCollector(url, chunk_draws=CHUNK_DRAWS, queue_bytes=1 << 14)
    sampled(collector, int(length[0]) if length else ENDLESS, buffer_draws=200)
