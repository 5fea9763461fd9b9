"""Row `import`: what `import jaxstore` takes beside `import jax`, each in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Figure, at_most
from benchmarks.measured import ROOT, Comparison, Measured
from benchmarks.timing import order

JAX, OURS = "import jax", "import jaxstore"
# A module is imported when one of its names is first used, so the import alone tells little.
VERBS = "from jaxstore import Loader, process, save, scan"
TIMES = 2  # runs for each round: one is short, and the system's noise is not
# Not a module of this package, which would import NumPy before the clock starts.
PROGRAM = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
exec(sys.argv[1])
taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
print(json.dumps(taken))
"""


def importing(bench: Bench) -> list[Figure]:
    """Seconds of the import alone, and with what all three wings need."""
    statements = (JAX, OURS, VERBS)
    imported(VERBS)  # so that the page cache holds the files
    taken: dict[str, list[dict[str, Any]]] = {statement: [] for statement in statements}
    for turn in range(bench.rounds * TIMES):
        for statement in order(list(statements), turn):
            taken[statement].append(imported(statement))
    found = {statement: Measured(tuple(runs)) for statement, runs in taken.items()}
    for statement, each in found.items():
        runs = {"wall_s": each.timing.wall_s, "cpu_s": each.timing.cpu_s}
        bench.note("import", statement, runs)
    compare = Comparison("import", found, {})
    return [compare.slower(statement, JAX, at_most(1.2)) for statement in (OURS, VERBS)]


def imported(statement: str) -> dict[str, Any]:
    """Wall and CPU seconds of one import."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, statement],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=True,
    )
    taken: dict[str, Any] = json.loads(done.stdout)
    return taken
