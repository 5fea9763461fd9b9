"""The medians of every contender of processing, as a second table."""

from __future__ import annotations

import statistics

from load_bench import LoadBench
from table import aligned, seconds

HEAD = ("row", "contender", "wall", "MB/s", "CPU", "MiB over imports")


def contenders(bench: LoadBench) -> str:
    """Markdown, a line per row and contender; MB are those of the source."""
    lines = [HEAD]
    for timing in bench.timings:
        wall_s, cpu_s, n_bytes, added = (
            statistics.median(timing[name])
            for name in ("wall_s", "cpu_s", "n_bytes", "added_bytes")
        )
        speed, memory = f"{n_bytes / wall_s / 1e6:.0f}", f"{added / 2**20:.0f}"
        lines.append(
            (timing["row"], timing["contender"], seconds(wall_s), speed, seconds(cpu_s), memory)
        )
    return aligned(lines)
