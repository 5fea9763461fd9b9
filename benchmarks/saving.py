"""Benchmark of saving: what it costs against targets, bounds and peers. README.md explains.

Usage: uv run --group bench python benchmarks/saving.py [--quick] [--only ROW] [--out DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import report
import save_big
import save_checkpoints
import save_memory
import save_peers
import save_scan
import save_triple
from bench import Bench, Sizes
from figures import Figure

ROWS: dict[str, Callable[[Bench], list[Figure]]] = {
    "scan_memory": save_scan.memory,
    "scan_zarr": save_scan.disk,
    "triple": save_triple.one_chain,
    "chains": save_triple.chains,
    "big_draws": save_big.big_draws,
    "checkpoints": save_checkpoints.checkpoints,
    "peers": save_peers.peers,
    "memory": save_memory.memory,
}


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="jaxstore-bench-", dir=options.dir) as name:
        bench = Bench(
            Sizes().scaled(options.scale) if options.scale != 1 else Sizes(),
            3 if options.quick else 7,
            Path(name),
            options.pymc_python,
        )
        where = machine.describe(bench.directory)
        print(report.headline(where), flush=True)
        began = time.perf_counter()
        figures = [f for row in options.only or ROWS for f in ROWS[row](bench)]
        took_s = time.perf_counter() - began
    sizes = {name: getattr(bench.sizes, name) for name in Sizes.__slots__}
    settings = {"sizes": sizes, "rounds": bench.rounds, "scale": options.scale, "took_s": took_s}
    report.write(
        options.out,
        "saving",
        configuration={**where, **settings},
        timings=bench.timings,
        figures=figures,
    )


def parse() -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--only", action="append", choices=ROWS, help="this row; may be repeated")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results, help="for table, lines and picture")
    parser.add_argument("--dir", type=Path, help="where to save draws; default: temporary")
    parser.add_argument("--pymc-python", type=Path, help="interpreter of an environment with PyMC")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times all sizes; targets hold for 1"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
