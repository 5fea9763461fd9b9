"""jaxstore's loader, as a user has it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.loading.data import BATCH_ROWS, INNER, WINDOW_CHUNKS
from benchmarks.loading.job import Epoch, Job, Opener, Piece
from benchmarks.probe import import_jaxstore


def contender(job: Job, *, to: str) -> Opener:
    """Batches as NumPy or JAX arrays."""
    js = import_jaxstore()
    if to == "jax":
        import jax

        jax.devices()  # the backend is no part of reading

    def opener() -> Epoch:
        batches = js.Loader(
            job.place,
            variables=list(INNER),
            batch_size=BATCH_ROWS,
            window_chunks=WINDOW_CHUNKS,
            seed=job.seed,
            remainder="drop",
            to=to,
        )

        def epoch() -> Iterator[Piece]:
            for batch in batches:
                yield Piece(batch.arrays, batch.rows)

        return epoch

    return opener


CONTENDERS = {
    "jaxstore": partial(contender, to="numpy"),
    "jaxstore to JAX": partial(contender, to="jax"),
}
