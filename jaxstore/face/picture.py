"""Traces and marginals of a run as a PNG.

Owned here: matplotlib, and how it looks. What is shown is `curves`'s. Figures are made without
pyplot, so a user's backend and open figures stay as they are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxstore.errors import ExistsError, MissingError
from jaxstore.face.curves import (
    Component,
    choose_leaves,
    components,
    marginal,
    mean_and_sd,
    thin_for_display,
)
from jaxstore.saving.run import Run

SOFTWARE = "jaxstore"  # in the metadata of each PNG, by which ours are known again
MOST_POINTS = 1500  # of a trace; a picture is about so many pixels wide
WIDTH_IN, ROW_IN, HEAD_IN, FOOT_IN = 11.0, 1.25, 0.75, 0.6
# Okabe and Ito (2008), https://jfly.uni-koeln.de/color/, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
INK, FAINT = "#222222", "#777777"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.edgecolor": "#BBBBBB",
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a picture shows, and what it says about itself."""

    title: str
    note: str
    rows: tuple[Component, ...]


def draw_run(
    run: Run, *, names: Sequence[str] = (), group: str | None = None, max_vars: int = 8
) -> Any:
    """A figure with one row per component: its marginal in each chain, and its trace.

    Args:
        run: Of which committed draws are shown.
        names: Leaves to show, by their names below the group; empty takes all.
        group: Of the run; None takes "posterior", or else the first.
        max_vars: Rows at most.

    Raises:
        MissingError: There is no such group or leaf, or no draw yet.
    """
    return draw(contents_of(run, names=names, group=group, max_vars=max_vars))


def contents_of(run: Run, *, names: Sequence[str], group: str | None, max_vars: int) -> Contents:
    """The components to show, in the order of the leaves."""
    leaves = choose_leaves(run, names=names, group=group)
    group = leaves[0].name.partition("/")[0]
    longest = int(run.sample_count.max(initial=0))
    if longest == 0:
        raise MissingError(f"{run.location} has no committed draw yet. Try again later.")
    rows: list[Component] = []
    for leaf in leaves:
        rows += components(leaf, group=group, most=max_vars - len(rows))
    n_all = sum(int(np.prod(leaf.shape[2:], dtype=np.int64)) for leaf in leaves)
    notes = []
    if n_all > len(rows):
        notes.append(f"{len(rows)} of {n_all:,} components; --max-vars or --var shows others.")
    if (step := thin_for_display(longest, most=MOST_POINTS)) > 1:
        notes.append(f"Traces show one draw of {step}; marginals and numbers use all.")
    return Contents(f"{group} of {title_of(run)}", " ".join(notes), tuple(rows))


def title_of(run: Run) -> str:
    """A run in a few words."""
    low, high = int(run.sample_count.min()), int(run.sample_count.max())
    draws = f"{high:,} draws" if low == high else f"{low:,} to {high:,} draws"
    chains = "1 chain" if run.n_chains == 1 else f"{run.n_chains} chains"
    return f"{os.path.basename(run.location.rstrip('/'))}: {chains} of {draws}, {run.state}"


def draw(contents: Contents) -> Any:
    """The figure of these contents."""
    height = HEAD_IN + FOOT_IN + ROW_IN * len(contents.rows)
    with rc_context(STYLE):
        figure = figure_of(height)
        axes = figure.subplots(
            len(contents.rows), 2, squeeze=False, gridspec_kw={"width_ratios": (1, 2.4)}
        )
        figure.subplots_adjust(
            left=0.035, right=0.985, wspace=0.11, hspace=0.62,
            top=1 - HEAD_IN / height, bottom=FOOT_IN / height,
        )  # fmt: skip
        for pair, row in zip(axes, contents.rows, strict=True):
            draw_row(pair, row)
        for axis in axes[:-1, 1]:
            axis.tick_params(labelbottom=False)
        axes[-1][1].set_xlabel("draw")
        top = 1 - 0.2 / height
        figure.text(0.035, top, contents.title, size=11, weight="bold", va="top")
        draw_legend(figure, len(contents.rows[0].chains), y=top)
        figure.text(0.035, 0.14 / height, contents.note, color=FAINT)
    return figure


def figure_of(height_in: float) -> Any:
    """An empty figure."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_row(pair: Sequence[Any], row: Component) -> None:
    """The marginal on the left, the trace on the right."""
    left, right = pair
    n_chains = len(row.chains)
    is_crowded = n_chains > len(COLOURS)
    line = {"lw": 0.6, "alpha": 0.6} if is_crowded else {"lw": 1.2, "alpha": 0.9}
    trace = {"lw": 0.3, "alpha": 0.25} if is_crowded else {"lw": 0.45, "alpha": 0.75}
    step = thin_for_display(max(map(len, row.chains)), most=MOST_POINTS)
    for values, colour in zip(row.chains, colours(n_chains), strict=False):
        if (curve := marginal(values, is_whole=row.is_whole)) is not None:
            left.plot(curve.x, curve.y, color=colour, **line)
        draws = np.arange(0, len(values), step)
        right.plot(draws, values[::step], color=colour, **trace)
    left.set_title(row.label, loc="left", size=9, weight="bold", pad=4)
    if (numbers := mean_and_sd(row)) is not None:
        left.set_title(mean_text(*numbers), loc="right", size=8, color=FAINT, pad=4)
    tidy(left, right, is_whole=row.is_whole)


def mean_text(mean: float, sd: float) -> str:
    """A mean to the digits that its spread allows.

    >>> mean_text(0.01234, 0.036), mean_text(512.3456, 2.3), mean_text(3e7, 2e6)
    ('0.012 ± 0.036', '512.3 ± 2.3', '3e+07 ± 2e+06')
    """
    if not 1e-4 < sd < 1e5:
        return f"{mean:.3g} ± {sd:.2g}"
    digits = max(0, 1 - math.floor(math.log10(sd)))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def tidy(left: Any, right: Any, *, is_whole: bool) -> None:
    """Few ticks, and no numbers on heights that mean nothing."""
    left.set_yticks([])
    left.set_ylim(bottom=0)
    left.spines["left"].set_visible(False)
    left.xaxis.set_major_locator(MaxNLocator(5, integer=is_whole, min_n_ticks=1))
    right.yaxis.set_major_locator(MaxNLocator(3, integer=is_whole, min_n_ticks=1))
    right.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    right.margins(x=0)


def draw_legend(figure: Any, n_chains: int, *, y: float) -> None:
    """Which colour is which chain, where that can be told."""
    if not 1 < n_chains <= len(COLOURS):
        return
    for chain, colour in enumerate(reversed(COLOURS[:n_chains])):
        text = f"chain {n_chains - 1 - chain}"
        figure.text(0.985 - 0.06 * chain, y, text, color=colour, ha="right", va="top", size=8.5)


def colours(n_chains: int) -> Iterator[Any]:
    """A colour per chain; shades when there are many."""
    if n_chains <= len(COLOURS):
        return iter(COLOURS[:n_chains])
    return iter(colormaps["viridis"](np.linspace(0.05, 0.9, n_chains)))


def write_picture(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, in one step; an earlier one of ours is replaced.

    Raises:
        ExistsError: Something else is there.
    """
    refuse_foreign(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png", metadata={"Software": SOFTWARE})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_foreign(path: Path) -> None:
    """Refuse to draw over anything but an earlier picture of ours.

    Raises:
        ExistsError: Something else is there.
    """
    if path.exists() and not is_own_picture(path):
        raise ExistsError(
            f"{path} is there and jaxstore did not draw it. It stays; choose another place."
        )


def is_own_picture(path: Path) -> bool:
    """Whether a file is a PNG that says jaxstore drew it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(4096)
    return head.startswith(b"\x89PNG") and b"Software\0" + SOFTWARE.encode() in head
