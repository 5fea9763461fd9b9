"""What the ranks of an MPI job do with storages, and as one; started by the tests.

mpiexec -n 3 python mpi_storages.py FOLDER COMMAND...      each in its own folder in FOLDER
"""

import sys
import time
from pathlib import Path

import numpy as np

from jaxstore.errors import ExistsError, JaxstoreError
from jaxstore.saving.storage_reader import rank_directory
from jaxstore.saving.storages import HDF5Storage, NumpyStorage, ZarrStorage
from jaxstore.topology import Stopped, from_root, place, root_only, together

KINDS = {
    "paths.zarr": lambda *args: ZarrStorage(1, 4, *args),
    "paths.h5": lambda *args: HDF5Storage(1, 4, *args),
    "paths.npz": lambda *args: NumpyStorage(1, *args),
}


def where(folder):
    found = place()
    (folder / f"{found.rank}").write_text(f"{found.rank} {found.size} {found.kind}")


def storages(folder):
    made = []
    mkdir = Path.mkdir

    def noted(path, *args, **options):
        made.append((path, path.is_dir()))
        mkdir(path, *args, **options)

    Path.mkdir = noted
    rank = place().rank
    for name, make in KINDS.items():
        above = folder / name.replace(".", "_")
        if rank == 0:
            time.sleep(0.1)  # so that whoever does not wait finds no directory
        made.clear()
        with make(rank_directory(above / name), True) as storage:
            assert above.is_dir()
            assert ((above, False) in made) == (rank == 0), made
            for i in range(6):
                storage.store(0.5 * i, np.full((2, 10), 10 * rank + i), i)


def same_path(folder):
    root_only(lambda: None)
    try:
        storage = ZarrStorage(1, 4, folder / "one.zarr", True)
    except ExistsError as error:
        (folder / f"refused{place().rank}").write_text(error.__notes__[0])
        return
    storage.store(0, np.ones((2, 3)), 0)
    storage.close()


def failing(folder):
    def fail():
        raise {"busy": ExistsError("mine"), "disk": OSError(28, "full"), "other": KeyError("x")}[
            what
        ]

    for what in ("busy", "disk", "other"):
        try:
            root_only(fail)
        except (JaxstoreError, OSError, KeyError) as error:
            text = f"{type(error).__name__} {getattr(error, 'errno', None)} {error}"
            (folder / f"{what}{place().rank}").write_text(text)
    done = folder / "done"

    def slowly():
        time.sleep(0.2)
        done.touch()

    root_only(slowly)
    assert done.exists()


def as_one(folder):
    rank = place().rank
    assert from_root(lambda: [rank, "ä" * 100_000]) == [0, "ä" * 100_000]
    assert together(lambda watch: rank * 10) == [0, 10, 20]

    def work(watch):
        deadline = time.monotonic() + 20
        while rank != 1 and time.monotonic() < deadline:
            try:
                watch()
            except Stopped:
                (folder / f"stopped{rank}").touch()
                if rank == 0:
                    raise
                break
        if rank != 0:  # rank 2 fails after it was stopped, in what it does to end
            raise {1: OSError(28, "full"), 2: ValueError("x")}[rank]

    for i in range(2):  # nothing of the first time is left in the second
        try:
            together(work)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", None)
            (folder / f"said{i}{rank}").write_text(f"{type(error).__name__} {number} {error}")
        assert together(lambda watch: watch()) == [None] * 3


for command in sys.argv[2:]:
    globals()[command](Path(sys.argv[1]) / command)
