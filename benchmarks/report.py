"""What a benchmark run leaves: lines as its record, and tables and pictures made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import picture, table
from benchmarks.figures import Figure, Target
from benchmarks.rows import ROWS, WINGS

LINES = "figures.jsonl"


@dataclass(frozen=True, slots=True)
class Report:
    """All of one run."""

    configuration: Mapping[str, Any]  # what `machine.describe` says, and the settings
    timings: tuple[Mapping[str, Any], ...]  # of all runs of all contenders
    figures: tuple[Figure, ...]

    @property
    def headline(self) -> str:
        """Where and when this was measured, in a paragraph."""
        rounds, minutes = self.configuration["rounds"], self.configuration["took_s"] / 60
        counts = " to ".join(str(n) for n in sorted({min(rounds.values()), max(rounds.values())}))
        return (
            f"{headline(self.configuration)}; {self.configuration['date']}, rounds: {counts}; "
            f"{minutes:.0f} minutes"
        )

    @property
    def verdicts(self) -> str:
        """How many targets are met."""
        asked = [f for f in self.figures if f.target is not None]
        judged = [f for f in asked if f.value is not None]
        n_met = sum(f.verdict == "met" for f in judged)
        return (
            f"{n_met} of {len(judged)} targets met, {len(asked) - len(judged)} more not measured."
        )

    @property
    def targets(self) -> str:
        """The one table of all wings."""
        return table.targets(self.figures, {name: row.wing for name, row in ROWS.items()})


def headline(where: Mapping[str, Any]) -> str:
    """The machine, in a line."""
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB; files on "
        f"{where['file_system']}; jax {where['versions']['jax']}, commit {where['commit']}, "
        f"load {where['load'][0]:.1f}"
    )


def write(report: Report, out: Path) -> None:
    """Lines, README.md with the table and pictures, details.md with all else, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_lines(report, out / LINES)
    drawn = []
    for wing in WINGS:
        figures = [f for f in report.figures if ROWS[f.row].wing == wing]
        (out / f"{wing}.png").unlink(missing_ok=True)
        if any(f.target is not None and f.value is not None for f in figures):
            picture.draw(figures, out / f"{wing}.png", title=report.headline)
            drawn.append(f"![Figures of {wing} against their targets]({wing}.png)")
    command = report.configuration["command"]
    text = "\n\n".join(
        [
            "# Results",
            f"`{command}`: {report.headline}.",
            f"{report.verdicts} `details.md` has the lines for information and every contender's "
            f"medians, `{LINES}` every run.",
            report.targets,
            *drawn,
        ]
    )
    (out / "README.md").write_text(f"{text}\n", encoding="utf-8")
    text = "\n\n".join(
        [
            "# Details",
            "Figures without a target:",
            table.information(report.figures),
            "Medians of every contender:",
            table.runs(report.timings),
        ]
    )
    (out / "details.md").write_text(f"{text}\n", encoding="utf-8")


def write_lines(report: Report, path: Path) -> None:
    """One JSON object per line: the configuration, the seconds of all runs, the figures."""
    lines: Iterable[Mapping[str, Any]] = [
        {"kind": "configuration", **report.configuration},
        *({"kind": "timing", **timing} for timing in report.timings),
        *({"kind": "figure", **asdict(f), "verdict": f.verdict} for f in report.figures),
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def read(out: Path) -> Report:
    """What `write_lines` wrote."""
    found: dict[str, list[Any]] = {"configuration": [], "timing": [], "figure": []}
    for line in (out / LINES).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        found[record.pop("kind")].append(record)
    figures = []
    for record in found["figure"]:
        del record["verdict"]
        target = record.pop("target")
        figures.append(Figure(**record, target=Target(**target) if target else None))
    (configuration,) = found["configuration"]
    return Report(configuration, tuple(found["timing"]), tuple(figures))
