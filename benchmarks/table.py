"""Figures as a Markdown table and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import Figure

HEAD = ("row", "what", "ratio", "rounds", "target", "verdict", "figures")


def markdown(figures: Sequence[Figure]) -> str:
    """The table of figures."""
    return aligned([HEAD, *map(cells, figures)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head, its columns aligned so that it reads on a console too.

    >>> print(aligned([("a", "b"), ("long", "c")]))
    | a    | b |
    |------|---|
    | long | c |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def cells(figure: Figure) -> tuple[str, ...]:
    """One line of the table."""
    rounds = ""
    if figure.low is not None and figure.high is not None:
        rounds = f"{number(figure.low)} to {number(figure.high)}"
    return (
        figure.row,
        figure.what,
        "" if figure.value is None else number(figure.value),
        rounds,
        "" if figure.target is None else str(figure.target),
        figure.verdict,
        figure.against,
    )


def number(value: float) -> str:
    """Three digits, never in powers of ten.

    >>> number(1.2345), number(123.45), number(0.00012)
    ('1.23', '123', '0.00')
    """
    return (
        f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"
    )


def seconds(value: float) -> str:
    """A duration with its unit.

    >>> seconds(2.0), seconds(0.0315), seconds(8.4e-7), seconds(-3e-9)
    ('2.00 s', '31.5 ms', '840 ns', '-3.00 ns')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale:
            return f"{digits(value / scale)} {unit}"
    return f"{digits(value / 1e-9)} ns"


def digits(value: float) -> str:
    """A number of three digits.

    >>> digits(1.0), digits(31.5), digits(840.2)
    ('1.00', '31.5', '840')
    """
    size = abs(value)
    return f"{value:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"


def write_lines(
    path: Path,
    *,
    configuration: Mapping[str, Any],
    timings: Iterable[Mapping[str, Any]],
    figures: Iterable[Figure],
) -> None:
    """One JSON object per line: the configuration, the seconds of all runs, the figures."""
    lines = [{"kind": "configuration", **configuration}]
    lines += [{"kind": "timing", **timing} for timing in timings]
    lines += [{"kind": "figure", **asdict(f), "verdict": f.verdict} for f in figures]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
