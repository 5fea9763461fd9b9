"""`jaxstore watch`: a run in a terminal while it is written.

Owned here: what is shown and when. The numbers are `pace`'s, the terminal is `screen`'s.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TextIO

from jaxstore.errors import BusyError
from jaxstore.face.pace import Agreement, Gauge, Moment, Pace, seconds_since, steps_done
from jaxstore.face.screen import Screen, bar, duration
from jaxstore.saving.run import Run, open_run
from jaxstore.stores.base import Json

GAUGE_EVERY_S = 5.0  # R-hat and ESS cost some tenths of a second
SILENT_S = 60.0  # without a commit, after which a reader should wonder
BAD_R_HAT = 1.01  # Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a run at one moment."""

    location: str
    state: str
    draws: tuple[int, ...]  # committed, of each chain
    steps: int  # of the sampler, up to the last of these draws
    length: int | None  # steps that it will make
    draws_per_s: float | None
    left_s: float | None
    committed_s: float | None  # seconds since the last commit
    agreement: Agreement | None
    is_busy: bool  # another process holds the store; all else is as it was before
    is_first: bool  # so that `agreement`, which takes its time, is yet to come

    @property
    def share(self) -> float | None:
        """How much of the run is done."""
        if self.state == "complete":
            return 1.0
        return min(1.0, self.steps / self.length) if self.length else None


def watch(
    where: str,
    *,
    every_s: float,
    is_once: bool,
    is_json: bool,
    stream: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run until it ends.

    Args:
        where: Path or URL.
        every_s: Seconds between two looks.
        is_once: Whether to look only once.
        is_json: Whether to write a JSON object per look instead.
        stream: To write to; a terminal gets lines that change, all else a line per commit.
        sleep: Waits so many seconds.

    Raises:
        MissingError: Nothing is there, or not any more.
        FormatError: It is no run.
    """
    stream = stream or sys.stdout
    screen = Screen(stream)
    last: tuple[int, ...] | None = None
    with open_run(where) as run:
        for view in views_of(run):
            if view.is_first:
                if not is_json:
                    screen.draw(lines_of(view))
                continue
            has_news = view.draws != last
            last = view.draws
            if is_json:
                stream.write(json.dumps(to_json(view)) + "\n")
                stream.flush()
            elif screen.is_live:
                screen.draw(lines_of(view))
            elif has_news or view.state != "running" or is_once:
                screen.say(line_of(view))
            if is_once or view.state != "running":
                return
            sleep(every_s)


def views_of(run: Run) -> Iterator[View]:
    """What a run looks like now, again and again; the caller waits in between."""
    pace, gauge, agreement = Pace(), Gauge(), None
    view, gauged_at = None, -GAUGE_EVERY_S
    while True:
        now = time.monotonic()
        try:
            run = run.refresh()
            moment = Moment(now, int(run.sample_count.sum()), steps_done(run))
            pace.add(moment)
            if view is None:
                yield view_of(run, moment, pace, None, is_first=True)
            if now - gauged_at >= GAUGE_EVERY_S or run.state != "running":
                gauged_at = now
                agreement = gauge.agreement() if gauge.look(run) else agreement
            view = view_of(run, moment, pace, agreement)
        except BusyError:
            if view is None:
                raise
            view = replace(view, is_busy=True)
        yield view


def view_of(
    run: Run, moment: Moment, pace: Pace, agreement: Agreement | None, *, is_first: bool = False
) -> View:
    """The numbers of one look."""
    length = run.settings.get("length")
    length = length if isinstance(length, int) else None
    speed = pace.per_s() if run.state == "running" else None
    draws_per_s, steps_per_s = speed or (mean_speed(run, moment), None)
    left = None if length is None else max(0, length - moment.steps)
    return View(
        location=run.location,
        state=run.state,
        draws=tuple(run.sample_count.tolist()),
        steps=moment.steps,
        length=length,
        draws_per_s=draws_per_s,
        left_s=left / steps_per_s if left is not None and steps_per_s else None,
        committed_s=seconds_since(run.committed_at),
        agreement=agreement,
        is_busy=False,
        is_first=is_first,
    )


def mean_speed(run: Run, moment: Moment) -> float | None:
    """Draws per second from the beginning of a run to its last commit."""
    began, ended = seconds_since(run.created_at), seconds_since(run.committed_at)
    # The record tells whole seconds.
    if began is None or ended is None or began - ended < 1:
        return None
    return moment.draws / (began - ended)


def to_json(view: View) -> Json:
    """A view as JSON."""
    agreement = view.agreement and view.agreement._asdict()
    return {**asdict(replace(view, agreement=None)), "share": view.share, "agreement": agreement}


def lines_of(view: View) -> list[str]:
    """A view for a terminal."""
    parts = {"state": state_of(view), "draws": f"{draws_of(view)}, committed"}
    if view.share is not None:
        parts["progress"] = f"{bar(view.share)} {progress_of(view)}"
    parts["speed"] = speed_of(view)
    lines = [f"  {name:9} {text}" for name, text in parts.items()]
    return [view.location, *lines, *agreement_lines(view)]


def draws_of(view: View) -> str:
    """Chains and draws in words."""
    low, high = min(view.draws, default=0), max(view.draws, default=0)
    chains = f"{len(view.draws)} chain" + "s" * (len(view.draws) != 1)
    return f"{chains} of {high:,}" if low == high else f"{chains} of {low:,} to {high:,}"


def state_of(view: View) -> str:
    """The state in words, and whether to wonder."""
    ago = "" if view.committed_s is None else f", last commit {duration(view.committed_s)} ago"
    if view.is_busy:
        return f"{view.state}{ago}; locked just now"
    if view.state == "running" and view.committed_s is not None and view.committed_s > SILENT_S:
        return f"{view.state}{ago}: slow, or killed"
    return f"{view.state}{ago}"


def progress_of(view: View) -> str:
    """How much is done, and what is left."""
    share = 0.0 if view.share is None else view.share
    left = (
        "" if view.left_s is None or view.state != "running" else f", {duration(view.left_s)} left"
    )
    steps = "" if view.length is None else f" of {view.length:,} steps"
    return f"{100 * share:.0f} %{steps}{left}"


def speed_of(view: View) -> str:
    """Draws per second in words."""
    if view.draws_per_s is None:
        return "not known yet"
    digits = 0 if view.draws_per_s >= 10 else 2
    mean = "" if view.state == "running" else " on average"
    return f"{view.draws_per_s:,.{digits}f} draws/s{mean}"


def agreement_lines(view: View) -> Iterator[str]:
    """R-hat and ESS of the worst components."""
    found = view.agreement
    if found is None:
        return
    if found.r_hat:
        hint = "" if found.r_hat[0][1] <= BAD_R_HAT else f"   (should be below {BAD_R_HAT})"
        yield f"  {'R-hat':9} " + ", ".join(f"{v:.3f} {name}" for name, v in found.r_hat) + hint
    if found.ess:
        yield f"  {'ESS':9} " + ", ".join(f"{v:,.0f} {name}" for name, v in found.ess)
    of = "" if found.n_components == found.n_all else f" {found.n_components} of"
    draws = f"{found.n_draws:,} draws of each chain"
    yield f"  {'':9} the worst of{of} {found.n_all:,} components, {draws}"


def line_of(view: View) -> str:
    """A view as one line, for pipes and logs."""
    parts = [f"{view.state}: {draws_of(view)} draws"]
    if view.draws_per_s is not None:
        parts.append(speed_of(view))
    if view.share is not None:
        parts.append(progress_of(view))
    if view.agreement and view.agreement.r_hat:
        name, value = view.agreement.r_hat[0]
        parts.append(f"R-hat {value:.3f} {name}")
    if view.agreement and view.agreement.ess:
        name, value = view.agreement.ess[0]
        parts.append(f"ESS {value:,.0f} {name}")
    return ", ".join(parts)
