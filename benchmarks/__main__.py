"""Benchmarks of all wings: what jaxstore costs against targets, bounds and peers.

Usage: uv run --group bench python -m benchmarks [WING ...] [--only ROW] [--out DIR]
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from benchmarks import budget, dataset, machine, report
from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.rows import ROWS

RESULTS = Path(__file__).parent / "results"
MINUTES = 18.0  # so that all ends within 20, the first writing of data sets included


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.again:
        report.write(report.read(options.again), options.again)
        return
    # Targets without the word GPU are for the processor, whatever else is there.
    jax.config.update("jax_platforms", "cpu")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.resolve()
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder) as scratch:
        bench = Bench(
            folder,
            Path(scratch),
            options.rounds,
            is_quick=options.quick,
            without=frozenset(options.without),
            pymc_python=options.pymc_python,
        )
        found = measured(bench, chosen(options), minutes=options.minutes)
    print(f"\n{found.targets}\n\n{found.verdicts}")
    is_whole = chosen(options) == list(ROWS) and not options.quick
    out = options.out or (RESULTS if is_whole else None)
    if out is not None:
        report.write(found, out)
        print(f"Written to {out}.")


def measured(bench: Bench, names: Sequence[str], *, minutes: float) -> report.Report:
    """All rows, each in as many rounds as the time allows that is left."""
    where = machine.describe(bench.folder)
    print(report.headline(where), flush=True)
    began, figures, rounds = time.perf_counter(), list[Figure](), dict[str, int]()
    expected_s = 0.0
    for number, name in enumerate(names):
        spent_s = time.perf_counter() - began
        slow = budget.slowness(spent_s, expected_s)
        costs = [ROWS[row].cost for row in names[number:]]
        n = bench.rounds or budget.rounds_within(costs, (60 * minutes - spent_s) / slow)
        left_s = slow * budget.estimated_s(costs, n)
        print(
            f"\n{name} ({number + 1} of {len(names)}): {n} rounds; "
            f"{spent_s / 60:.1f} minutes went, about {left_s / 60:.1f} to go",
            flush=True,
        )
        figures += ROWS[name].measure(replace(bench, rounds=n))
        rounds[name] = n
        expected_s += budget.estimated_s(costs[:1], n)
    settings = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "rounds": rounds,
        "is_quick": bench.is_quick,
        "took_s": time.perf_counter() - began,
    }
    return report.Report({**where, **settings}, tuple(bench.timings), tuple(figures))


def chosen(options: Any) -> list[str]:
    """Names of rows in their order."""
    if options.only:
        return [name for name in ROWS if name in options.only]
    return [name for name, row in ROWS.items() if not options.wings or row.wing in options.wings]


def parse(arguments: Sequence[str] | None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure jaxstore against its targets, bounds and peers; all of it without "
        "arguments. benchmarks/README.md explains.",
        epilog="example: python -m benchmarks loading --rounds 3 --without grain",
    )
    wings = sorted({row.wing for row in ROWS.values()})
    parser.add_argument("wings", nargs="*", metavar="WING", help=f"of {', '.join(wings)}")
    parser.add_argument(
        "--only", action="append", choices=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="CONTENDER",
        help="may be repeated, as may --only",
    )
    parser.add_argument("--rounds", type=int, default=0, help="default: as many as time allows")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"what may be spent; default: {MINUTES:g}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: only shows that it works"
    )
    parser.add_argument(
        "--out", type=Path, help=f"for tables and pictures; of a whole run by default {RESULTS}"
    )
    parser.add_argument(
        "--folder", type=Path, default=dataset.default_folder(), help="keeps data sets"
    )
    parser.add_argument("--pymc-python", type=Path, help="interpreter of an environment with PyMC")
    parser.add_argument(
        "--again", type=Path, metavar="DIR", help="only write a run's tables and pictures again"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.wings) - set(wings):
        parser.error(f"no wing {', '.join(sorted(unknown))}; there are {', '.join(wings)}")
    if options.rounds < 0:
        parser.error(f"--rounds must be 1 or more, got {options.rounds}")
    if options.quick:
        options.rounds = options.rounds or 1
    return options


if __name__ == "__main__":
    main()
