"""What a benchmark leaves: a table on the console, and table, JSON lines and picture as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import picture
import table
from figures import Figure


def headline(where: Mapping[str, Any]) -> str:
    """Where this runs, in a line."""
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB; files on "
        f"{where['file_system']}; jax {where['versions']['jax']}, commit {where['commit']}, "
        f"load {where['load'][0]:.1f}"
    )


def write(
    out: Path,
    name: str,
    *,
    configuration: Mapping[str, Any],
    timings: Iterable[Mapping[str, Any]],
    figures: Sequence[Figure],
    extra: str = "",
) -> None:
    """Print the table and write NAME.md, NAME.jsonl and NAME.png into a folder.

    Args:
        out: The folder; made if need be.
        name: Of the benchmark.
        configuration: What `machine.describe` says, and the settings.
        timings: Of all runs.
        figures: Of all rows.
        extra: Markdown that follows the table of figures.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(filter(None, [table.markdown(figures), extra]))
    title = headline(configuration)
    (out / f"{name}.md").write_text(f"{title}\n\n{text}\n", encoding="utf-8")
    table.write_lines(
        out / f"{name}.jsonl", configuration=configuration, timings=timings, figures=figures
    )
    picture.draw(figures, out / f"{name}.png", title=title)
    judged = [f for f in figures if f.target is not None and f.value is not None]
    n_met = sum(f.verdict == "met" for f in judged)
    print(f"\n{text}\n\n{n_met} of {len(judged)} targets met. Written to {out}.")
