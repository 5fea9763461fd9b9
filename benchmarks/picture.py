"""Figures as a picture: how many times better than its target each one is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks.figures import Figure
from benchmarks.table import number

MET, MISSED = "#3a7d5c", "#c0533e"
SHOWN = (1e-3, 1e3)  # margins; memory that shrinks is without bound better than asked


def draw(figures: Sequence[Figure], path: Path, *, title: str) -> None:
    """Write a PNG; figures without a target or a value are left out."""
    shown = [f for f in figures if f.target is not None and f.value is not None][::-1]
    canvas = Canvas(figsize=(10, 1.2 + 0.34 * len(shown)), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    margins = [min(max(f.target.margin(f.value), SHOWN[0]), SHOWN[1]) for f in shown]
    colors = [MET if margin >= 1 else MISSED for margin in margins]
    axes.barh(range(len(shown)), [m - 1 for m in margins], left=1, color=colors, height=0.62)
    axes.axvline(1, color="black", linewidth=1)
    for y, (f, margin) in enumerate(zip(shown, margins, strict=True)):
        axes.annotate(
            f"{number(f.value)} ({f.target})",
            (max(margin, 1), y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(shown)), [f"{f.row}: {f.what}" for f in shown], fontsize=8)
    axes.set_xscale("log")
    low, high = min([0.5, *margins]), max([2, *margins])
    axes.set_xlim(low / 1.2, high * 4)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("times better than the target; left of 1 it is missed")
    axes.set_title(title, fontsize=7, loc="right")  # which is long, and may reach to the left
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(path, dpi=130)
