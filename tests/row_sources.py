"""Row sources in tests: all rows of one, read as the loader does."""

import numpy as np


def rows_of(source):
    """All rows, each chunk read into memory that is full of something else."""
    g = source.geometry
    blocks = []
    for chunk in range(g.n_chunks):
        rows = np.full((len(g.samples_in_chunk(chunk)), *g.inner_shape), 77).astype(g.dtype)
        for index in source.stored_chunks(chunk):
            source.read(index, rows)
        blocks.append(rows)
    return np.concatenate(blocks) if blocks else np.empty((0, *g.inner_shape), g.dtype)
