"""The medians of every contender, as a second table."""

from __future__ import annotations

import statistics

from load_bench import LoadBench
from table import aligned, seconds

HEAD = ("row", "contender", "epoch", "MB/s", "CPU", "to open", "first batch", "MiB over imports")


def contenders(bench: LoadBench) -> str:
    """Markdown, a line per row and contender."""
    lines = [HEAD]
    for timing in bench.timings:
        median = {
            name: statistics.median(values)
            for name, values in timing.items()
            if name not in ("row", "contender") and None not in values
        }
        first = seconds(median["first_s"]) if "first_s" in median else ""
        lines.append(
            (
                timing["row"],
                timing["contender"],
                seconds(median["wall_s"]),
                f"{median['n_bytes'] / median['wall_s'] / 1e6:.0f}",
                seconds(median["cpu_s"]),
                seconds(median["open_s"]),
                first,
                f"{median['added_bytes'] / 2**20:.0f}",
            )
        )
    return aligned(lines)
