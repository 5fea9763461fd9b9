"""Benchmark of processing: what it costs against targets, bounds and peers. README.md explains.

Usage: uv run --group bench python benchmarks/processing.py [--rounds N] [--only ROW] [--out DIR]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import load_data
import machine
import process_table
import report
from load_bench import LoadBench
from process_data import Data
from process_rows import ITEMS, ROWS, Rows


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = LoadBench(
        Data(options.folder, options.items),
        options.rounds,
        without=frozenset(options.without),
        program=Path(__file__).parent / "process_probe.py",
    )
    where = machine.describe(options.folder)
    print(report.headline(where), flush=True)
    began = time.perf_counter()
    rows = Rows(bench, is_small=options.items < ITEMS)
    figures = [f for row in options.only or ROWS for f in getattr(rows, row)()]
    took_s = time.perf_counter() - began
    settings = {"items": options.items, "rounds": options.rounds, "took_s": took_s}
    report.write(
        options.out,
        "processing",
        configuration={**where, **settings},
        timings=bench.timings,
        figures=figures,
        extra=process_table.contenders(bench),
    )


def parse() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="1 only shows that it works")
    parser.add_argument("--only", action="append", choices=ROWS, help="this row; may be repeated")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results, help="for table, lines and picture")
    parser.add_argument(
        "--folder", type=Path, default=load_data.default_folder(), help="keeps the data set"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="CONTENDER", help="may be repeated"
    )
    parser.add_argument("--items", type=int, default=ITEMS, help=f"targets hold for {ITEMS}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
