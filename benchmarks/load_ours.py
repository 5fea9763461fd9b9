"""jaxstore's loader, as a user has it: the only file of the benchmark that knows its names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from load_data import BATCH_ROWS, INNER, WINDOW_CHUNKS
from load_job import AbsentError, Epoch, Job, Opener, Piece


def loader(job: Job, to: str) -> Any:
    """Opened, nothing read yet."""
    import jaxstore as js

    return js.Loader(
        job.place,
        variables=list(INNER),
        batch_size=BATCH_ROWS,
        window_chunks=WINDOW_CHUNKS,
        seed=job.seed,
        remainder="drop",
        to=to,
    )


def import_all() -> None:
    """What jaxstore imports when it is first needed: imports are measured for nobody."""
    for name in ("h5py", "hdf5plugin", "numcodecs", "obstore", "zarr"):
        importlib.import_module(name)
    for name in ("jaxstore.stores", "jaxstore.loading"):
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{name}.{module.name}")


def contender(job: Job, to: str) -> Opener:
    """Batches as NumPy or JAX arrays."""
    import jaxstore as js

    if not hasattr(js, "Loader"):
        raise AbsentError("jaxstore has no Loader")
    import_all()
    if to == "jax":
        import jax

        jax.devices()  # the backend is no part of reading

    def opener() -> Epoch:
        batches = loader(job, to)

        def epoch() -> Iterator[Piece]:
            for batch in batches:
                yield Piece(batch.arrays, batch.rows)

        return epoch

    return opener


def jaxstore_numpy(job: Job) -> Opener:
    """To host memory."""
    return contender(job, "numpy")


def jaxstore_jax(job: Job) -> Opener:
    """To the default device."""
    return contender(job, "jax")


CONTENDERS = {"jaxstore": jaxstore_numpy, "jaxstore to JAX": jaxstore_jax}
