"""Why targets are missed: what the table says beside a figure that does not meet its own."""

from __future__ import annotations

from benchmarks.figures import Figure

UNKNOWN = "not explained yet"
DISK = (
    "the plain file is written from memory that stays in the cache, by a process that does nothing "
    "else; a draw here is computed, put into the ring, summed and written by two cores on one "
    "memory bus. On tmpfs 0.4 to 0.7, without checksums 0.7 to 0.8"
)
NEAR = "on the line; the rounds lie on both sides of the target"
SMALL = (
    "61,440 spectra take a second, and what every run takes counts more in it; of twice as many, "
    "an earlier run measured 1.9 (dask with NumPy) and 2.3 (dask with JAX)"
)
JOURNAL = (
    "all of a result goes through a redo journal, whose time is that of the disk: four runs gave "
    "1.2 to 2, an earlier one of twice the data 0.8"
)
NOISE = "the time of commits is that of the disk, and differs from run to run: 0.8 to 1.4"
H5PY = (
    "h5py reads whole chunks without filters at 8 GB/s here, where the target was set for 1 GB/s; "
    "a loader copies each row once more, into its batch"
)
REASONS = {  # row, how `what` begins
    ("triple", "triple"): (
        "a callback in the body of a scan makes XLA's CPU backend run that body kernel by kernel: "
        "2.5 before the host is called at all, 3.0 with a receiver that does nothing; the rest is "
        "the writer on the second core"
    ),
    ("triple", "io_callback"): "an io_callback costs 36 µs here, not the 85 of the target",
    ("chains", "64 chains / one chain, a keep"): (
        "every chain's draws are picked out of the ring by themselves"
    ),
    ("chains", "64 chains / one chain, one"): (
        "the cost for one chain is a difference of two noisy times: 0.90 to 1.10"
    ),
    ("big_draws", "js.scan into Zarr"): DISK,
    ("big_draws", "triple into Zarr"): DISK,
    ("big_draws", "js.scan into HDF5"): f"{DISK}; fletcher32 runs at 5 GB/s and holds the GIL",
    ("big_draws", "triple into HDF5"): f"{DISK}; fletcher32 runs at 5 GB/s and holds the GIL",
    ("checkpoints", "scan"): NOISE,
    ("checkpoints", "triple"): NOISE,
    ("hdf5_raw", "jaxstore, speed / h5py slices, shuffled"): (
        "the same work; the hand-written loop for this data set alone reaches 1.9"
    ),
    ("hdf5_raw", "jaxstore, speed / h5py slices"): H5PY,
    ("scan_memory", "js.scan"): NEAR,
    ("scan_zarr", "js.scan"): NEAR,
    ("big_draws", "triple into Memory"): NEAR,
    ("zarr_raw", "jaxstore, speed / cat"): (
        "it takes the CPU seconds of the run that reached 0.58 (0.42 against 0.40), and the code of"
        " that run is as slow here today: most likely the second core was not all ours"
    ),
    ("hdf5_gzip", "jaxstore, memory"): (
        "each thread also holds a chunk as it is stored and one before it is unshuffled; "
        "`describe()` counts them, the windows and batches of this bound do not"
    ),
    ("peak_zarr", "jaxstore, speed / dask, NumPy"): (
        "the kernel bounds everybody: XLA finds an argmax on a CPU in 10 µs of the 15 that a "
        f"spectrum takes, NumPy needs 18 to 20 for all of it. And {SMALL}"
    ),
    ("peak_zarr", "jaxstore, speed / dask, JAX"): SMALL,
    ("line_zarr", "jaxstore, speed / dask, NumPy"): SMALL,
    ("line_hdf5", "jaxstore, seconds"): JOURNAL,
    ("ensemble", "jaxstore"): (
        "three programs were compiled, two only to see what a member takes; since this run one "
        "of these is the program that runs, and the row by itself gives 0.97"
    ),
}


def reason(figure: Figure) -> str:
    """Of a missed target; the longest beginning that fits counts.

    >>> reason(Figure("a", "b", 2.0, ""))
    ''
    """
    if not figure.verdict.startswith("missed"):
        return ""
    fitting = [key for key in REASONS if key[0] == figure.row and figure.what.startswith(key[1])]
    return REASONS[max(fitting, key=lambda key: len(key[1]))] if fitting else UNKNOWN
