"""What every row of a benchmark is given: sizes, a place for files, a clock that keeps notes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from table import seconds
from timing import Contender, Timing, interleave, touch_memory


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each row does. Targets hold for these; `scaled` ones only show that it works."""

    steps: int = 300_000  # of one chain of 100 floats
    callback_steps: int = 10_000  # with an io_callback each
    n_chains: int = 64
    chain_steps: int = 10_000  # of the vmapped chains
    big_draws: int = 100  # of 4 MB
    peer_draws: int = 1_000  # by each peer, one call per draw
    memory_steps: int = 25_000  # the short run; the long one has eight times as many
    touched_bytes: int = 3 * 2**30  # about what a run takes at most, results and file cache

    def scaled(self, scale: float) -> Sizes:
        """Everything but the number of chains, times `scale`."""
        return Sizes(
            steps=max(64, int(self.steps * scale)),
            callback_steps=max(16, int(self.callback_steps * scale)),
            chain_steps=max(64, int(self.chain_steps * scale)),
            big_draws=max(2, int(self.big_draws * scale)),
            peer_draws=max(8, int(self.peer_draws * scale)),
            memory_steps=max(64, int(self.memory_steps * scale)),
            touched_bytes=int(self.touched_bytes * scale),
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark run."""

    sizes: Sizes
    rounds: int
    directory: Path  # exists; all in it is removed between runs
    pymc_python: Path | None  # interpreter of an environment that has PyMC
    timings: list[dict[str, Any]] = field(default_factory=list)  # of all rows, for the JSON lines
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def time(self, row: str, contenders: Mapping[str, Contender]) -> dict[str, Timing]:
        """Interleave contenders, print what they took, and note it."""
        print(f"\n{row}: {len(contenders)} contenders, {self.rounds} rounds", flush=True)
        touch_memory(self.sizes.touched_bytes)
        timings = interleave(contenders, rounds=self.rounds)
        for name, timing in timings.items():
            fastest, slowest = min(timing.wall_s), max(timing.wall_s)
            print(
                f"  {name:32s} {seconds(timing.median_s):>9s}"
                f"   ({seconds(fastest)} to {seconds(slowest)})",
                flush=True,
            )
            noted = {"row": row, "contender": name}
            self.timings.append({**noted, "wall_s": timing.wall_s, "cpu_s": timing.cpu_s})
        return timings

    def fresh(self, suffix: str = "") -> Path:
        """A path where nothing is."""
        return self.directory / f"{next(self.numbers)}{suffix}"

    def wipe(self) -> None:
        """Remove all files that runs wrote."""
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
