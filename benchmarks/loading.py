"""Benchmark of loading: what it costs against targets, bounds and peers. README.md explains.

Usage: uv run --group bench python benchmarks/loading.py [--rounds N] [--only ROW] [--out DIR]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import load_data
import load_local
import load_table
import load_waits
import machine
import report
from figures import Figure
from load_bench import LoadBench

ROWS: dict[str, Callable[[LoadBench], list[Figure]]] = {
    "zarr_raw": load_local.zarr_raw,
    "zarr_zstd": load_local.zarr_zstd,
    "hdf5_raw": load_local.hdf5_raw,
    "hdf5_gzip": load_local.hdf5_gzip,
    "latency": load_waits.latency,
    "step": load_waits.step,
}


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = load_data.Data(options.folder, options.rows)
    bench = LoadBench(data, options.rounds, without=frozenset(options.without))
    where = machine.describe(options.folder)
    print(report.headline(where), flush=True)
    began = time.perf_counter()
    figures = [f for row in options.only or ROWS for f in ROWS[row](bench)]
    took_s = time.perf_counter() - began
    settings = {"rows": options.rows, "rounds": options.rounds, "took_s": took_s}
    report.write(
        options.out,
        "loading",
        configuration={**where, **settings},
        timings=bench.timings,
        figures=figures,
        extra=load_table.contenders(bench),
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
    parser.add_argument("--rows", type=int, default=16384, help="targets hold for 16384")
    return parser.parse_args()


if __name__ == "__main__":
    main()
