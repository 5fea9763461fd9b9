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
import picture
import save_big
import save_checkpoints
import save_memory
import save_peers
import save_scan
import save_triple
import table
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
        print(headline(where), flush=True)
        began = time.perf_counter()
        figures = [f for row in options.only or ROWS for f in ROWS[row](bench)]
        took_s = time.perf_counter() - began
    report(options, figures, bench, {**where, "took_s": took_s})


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


def headline(where: dict[str, Any]) -> str:
    """Where this runs, in a line."""
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB; files on "
        f"{where['file_system']}; jax {where['versions']['jax']}, commit {where['commit']}, "
        f"load {where['load'][0]:.1f}"
    )


def report(options: Any, figures: list[Figure], bench: Bench, where: dict[str, Any]) -> None:
    """Print the table and write table, lines and picture."""
    options.out.mkdir(parents=True, exist_ok=True)
    text = table.markdown(figures)
    sizes = {name: getattr(bench.sizes, name) for name in Sizes.__slots__}
    configuration = {**where, "sizes": sizes, "rounds": bench.rounds, "scale": options.scale}
    (options.out / "saving.md").write_text(f"{headline(where)}\n\n{text}\n", encoding="utf-8")
    table.write_lines(
        options.out / "saving.jsonl",
        configuration=configuration,
        timings=bench.timings,
        figures=figures,
    )
    picture.draw(figures, options.out / "saving.png", title=headline(where))
    judged = [f for f in figures if f.target is not None and f.value is not None]
    n_met = sum(f.verdict == "met" for f in judged)
    print(f"\n{text}\n\n{n_met} of {len(judged)} targets met. Written to {options.out}.")


if __name__ == "__main__":
    main()
