"""The demo's own pictures: patients with their intervals, and how good the network is.

Owned here: what is in them. How pictures look and are written is `picture`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context

from jaxstore import Result
from jaxstore.face.demo_model import Patients
from jaxstore.face.demo_surrogate import Held, r_squared
from jaxstore.face.picture import COLOURS, FAINT, STYLE, figure_of

BLUE, ORANGE, RED = COLOURS[0], COLOURS[1], COLOURS[5]
SMOOTHED_STEPS = 25  # of the curve through the losses


def draw_predictive(checked: Result, patients: Patients) -> Any:
    """Each patient's 90 % interval and outcome, in order of what is expected."""
    order = np.argsort(checked["middle"][:])
    low, middle, high = (checked[name][:][order] for name in ("low", "middle", "high"))
    y, is_inside = np.asarray(patients.y)[order], checked["is_inside"][:][order]
    x = np.arange(len(order))
    with rc_context(STYLE):
        figure = figure_of(4.6)
        axis = figure.add_axes((0.05, 0.11, 0.93, 0.78))
        axis.fill_between(x, low, high, color=BLUE, alpha=0.18, lw=0, label="90 % interval")
        axis.plot(x, middle, color=BLUE, lw=1.2, label="median")
        axis.plot(x[is_inside], y[is_inside], "o", ms=2.6, color="#555555", mew=0, label="inside")
        axis.plot(x[~is_inside], y[~is_inside], "o", ms=3.6, color=RED, mew=0, label="outside")
        axis.margins(x=0.005)
        axis.set_xlabel("patients, in order of the median")
        axis.set_ylabel("progression of diabetes, standardised")
        axis.legend(loc="upper left", frameon=False, ncols=4)
        title = (
            f"Predictive intervals: {100 * np.mean(is_inside):.0f} % of {len(y)} outcomes inside"
        )
        figure.text(0.05, 0.965, title, size=11, weight="bold", va="top")
    return figure


def draw_surrogate(losses: Any, held: Held) -> Any:
    """The losses of all steps, and predictions of the held-out draws."""
    with rc_context(STYLE):
        figure = figure_of(4.6)
        left = figure.add_axes((0.06, 0.11, 0.4, 0.78))
        steps = np.arange(len(losses))
        left.semilogy(steps, losses, color=BLUE, lw=0.4, alpha=0.4)
        window = min(SMOOTHED_STEPS, len(losses))
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        left.semilogy(steps[window - 1 :], smooth, color=BLUE, lw=1.4)
        left.set_xlabel("training step")
        left.set_ylabel("loss; 1 is that of a constant")
        left.margins(x=0)
        right = figure.add_axes((0.55, 0.11, 0.43, 0.78))
        ends = [held.lp.min(), held.lp.max()]
        right.plot(ends, ends, color=FAINT, lw=0.8)
        of_kind = {"linear fit": (held.linear, ORANGE), "network": (held.surrogate, BLUE)}
        for name, (predicted, colour) in of_kind.items():
            label = f"{name}, R\N{SUPERSCRIPT TWO} {r_squared(held, predicted):.3f}"
            right.plot(held.lp, predicted, "o", ms=1.8, mew=0, alpha=0.5, color=colour, label=label)
        right.set_xlabel("log density, stored")
        right.set_ylabel("predicted")
        right.legend(loc="upper left", frameon=False, markerscale=3)
        title = f"The network learns the log density: {len(held.lp):,} draws that it never saw"
        figure.text(0.05, 0.965, title, size=11, weight="bold", va="top")
    return figure
