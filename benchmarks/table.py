"""Figures and the runs behind them as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.figures import Figure
from benchmarks.reasons import reason

FIGURES = ("row", "what", "ratio", "rounds", "figures")
TARGETS = ("wing", "row", "what", "ratio", "rounds", "target", "verdict", "figures", "why")
RUNS = (
    "row", "contender", "runs", "wall", "CPU", "MB/s", "to open", "first batch", "MiB over imports"
)  # fmt: skip


def targets(figures: Sequence[Figure], wings: Mapping[str, str]) -> str:
    """Those that have one; `wings` says of which a row is."""
    return aligned(
        [TARGETS]
        + [
            (
                wings[f.row],
                *measured(f)[:4],
                str(f.target),
                f.verdict,
                f.against,
                reason(f),
            )
            for f in figures
            if f.target is not None
        ]
    )


def information(figures: Sequence[Figure]) -> str:
    """Those that have none."""
    return aligned([FIGURES, *(measured(f) for f in figures if f.target is None)])


def measured(figure: Figure) -> tuple[str, str, str, str, str]:
    """What was found."""
    rounds = ""
    if figure.low is not None and figure.high is not None:
        rounds = f"{number(figure.low)} to {number(figure.high)}"
    value = "" if figure.value is None else number(figure.value)
    return figure.row, figure.what, value, rounds, figure.against


def runs(timings: Sequence[Mapping[str, Any]]) -> str:
    """The medians of every contender."""
    return aligned([RUNS, *(medians(timing) for timing in timings if "wall_s" in timing)])


def medians(timing: Mapping[str, Any]) -> tuple[str, ...]:
    """Of one; blank where its kind of run does not tell."""
    median = {
        name: statistics.median(values)
        for name, values in timing.items()
        if name not in ("row", "contender") and None not in values
    }
    shown: dict[str, Callable[[float], str]] = {
        "wall_s": seconds,
        "cpu_s": seconds,
        "n_bytes": lambda n_bytes: f"{n_bytes / median['wall_s'] / 1e6:.0f}",
        "open_s": seconds,
        "first_s": seconds,
        "added_bytes": lambda n_bytes: f"{n_bytes / 2**20:.0f}",
    }
    cells = (show(median[name]) if name in median else "" for name, show in shown.items())
    return timing["row"], timing["contender"], str(len(timing["wall_s"])), *cells


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
