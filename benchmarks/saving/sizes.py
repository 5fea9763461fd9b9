"""How much each row of saving does."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bench import Bench


@dataclass(frozen=True, slots=True)
class Sizes:
    """Targets hold for these."""

    steps: int = 300_000  # of one chain of 100 floats
    callback_steps: int = 10_000  # with an io_callback each
    n_chains: int = 64
    chain_steps: int = 10_000  # of the vmapped chains
    big_draws: int = 100  # of 4 MB
    peer_draws: int = 1_000  # by each peer, one call per draw
    memory_steps: int = 25_000  # the short run; the long one has eight times as many


QUICK = Sizes(
    steps=300, callback_steps=16, chain_steps=64, big_draws=2, peer_draws=8, memory_steps=64
)


def sizes(bench: Bench) -> Sizes:
    """Those of a benchmark run."""
    return QUICK if bench.is_quick else Sizes()
