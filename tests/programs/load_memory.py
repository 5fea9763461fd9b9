"""Loads a data set for some epochs; prints what was announced and the peaks, in bytes.

Run: load_memory.py PATH MEMORY TO
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import jaxstore as js

path, memory, to = sys.argv[1:]
STATUS = Path("/proc/self/status")


def resident(field):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def epoch(loader):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for batch in loader:
        np.asarray(batch["x"])[0, 0]
    return resident("VmHWM")


jax.devices()  # the backend is no part of it
js.Loader({"x": np.zeros((100, 10), "f4")}, batch_size=10)
loader = js.Loader(path, ["x"], batch_size=64, window_chunks=4, memory=memory, to=to)
with js.Loader(path, ["x"], batch_size=1, window_chunks=1, n_rows=64, to=to) as small:
    epoch(small)  # modules that are imported when they are needed
del small
before = resident("VmRSS")
peaks = [epoch(loader) - before for _ in range(3)]
print(json.dumps({"announced": loader.describe().memory_bytes, "peaks": peaks}))
