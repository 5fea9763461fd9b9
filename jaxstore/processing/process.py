"""A function over stored arrays, into stored arrays: `process`, the one call, and its `plan`.

Owned here: what a user writes. What it means is `request`, what happens then `carrying`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import PyTree

from jaxstore.processing.carrying import carry_out, foresee
from jaxstore.processing.job import OnError
from jaxstore.processing.plan import Plan
from jaxstore.processing.reduce import Reduce
from jaxstore.processing.request import understand
from jaxstore.processing.result import Result


def process(
    function: Callable[..., PyTree[Any]],
    source: PyTree[Any],
    target: Any = None,
    *,
    params: Mapping[str, Any] | None = None,
    name: str = "",
    version: str | None = None,
    select: Any = None,
    axis: PyTree[int] = 0,
    dtype: PyTree[Any] = None,
    reduce: str | Reduce | None = None,
    chan_per_worker: int | None = None,
    channel_axis: int = 0,
    memory: int | str = "2GB",
    chunks: int | None = None,
    batch_size: int | None = None,
    batched: bool = False,
    engine: Any = None,
    workers: int | None = None,
    override: bool = False,
    resume: bool | Result = True,
    on_error: OnError = "raise",
    retries: int = 0,
    source_token: str = "stat",
    strict: bool = False,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    compression: str | None = "zstd",
    durable: bool = False,
    progress: bool = True,
) -> Result:
    """Apply a JAX function to every item of a stored array, and store what it gives.

    The function is vmapped, compiled once, and run over batches in bounded memory. The result is a
    group `<source>-<name>_000` with an array for each output, (item, ...). The same computation
    called again gives the earlier result, untouched; one that was interrupted is continued. What
    comes is the same bit for bit however often it was interrupted, and on any engine and number of
    workers.

    Args:
        function: Takes one item and the parameters as keywords; gives a pytree of arrays.
        source: Where the items are: a path or URL of one array, "data.h5:/raw"; a handle of h5py,
            zarr or obstore; an array in memory; a leaf of a run; an array of a result; or a tuple,
            list or dict of these, of one length, which the function gets in step in the same
            structure.
        target: Where the result goes: a path or URL of a store, with ":/group" for a group in it;
            a handle; "memory". None puts it beside the source.
        params: Keywords of the function, kept with the result, and compared.
        name: Of the process; that of the function by default.
        version: Compared instead of the program, so that edits of the function count only where
            this changes.
        select: Items to take, in this order: a slice, indices, or a mask. None takes all.
        axis: Of the source, along which items lie; one for all sources, or one for each.
        dtype: To cast values to, before the function; likewise.
        reduce: "mean", "sum", "min", "max", "variance" or a `Reduce`, over the outputs of all
            items; the result then has no axis of items.
        chan_per_worker: Channels computed at once: items are cut into so many along an axis, for
            functions that treat channels one by one. None takes items whole.
        channel_axis: That axis, of an item and of each output.
        memory: What may be taken at most, in bytes or as "2GB", besides the compiled program, JAX
            itself, and 64 MiB.
        chunks: Items in a chunk of the outputs, which is what is computed and marked as a whole.
            None: by memory and by the chunks of the source.
        batch_size: Items computed at once. None: by the memory of the compiled program.
        batched: The function takes many items, with their axis first, and gives them so.
        engine: "threads", "serial" for the calling thread, "mpi", or a `distributed.Client`. None
            takes the ranks of an MPI launcher where there are some, else threads.
        workers: Units computed at once; of MPI and dask, in each process.
        override: Start afresh in a new group, whatever there is.
        resume: Whether a partial result is continued; or the `Result` to continue, whose chunks
            are all looked at first.
        on_error: "raise" stops at an item that fails; "record" leaves fill values for it, notes
            what happened in `Result.errors`, and goes on.
        retries: Of a unit that failed, before that.
        source_token: How it is told whether the source has changed: "stat" by its files, "content"
            by its values, which reads them all; any other text stands for its state.
        strict: Chunks that are absent from the source are errors, not fill values.
        dims: Names of the axes of outputs, without that of items.
        attrs: Kept with the result.
        compression: Of a new store: "zstd", "lz4" or None.
        durable: Marks wait until what they speak of would outlive a power loss.
        progress: Show a bar, in a terminal or a notebook.

    Raises:
        MismatchError: Function, parameters, sources and settings do not go together.
        TooLargeError: A single item takes more than `memory`; nothing was made.
        BusyError: Another process works on the result.
        Exception: What the function raises, with the item; what was computed before stays.

    >>> import jax.numpy as jnp, numpy as np
    >>> waves = np.sin(np.arange(12.0, dtype="f4")).reshape(3, 4)
    >>> res = process(lambda x, *, by: {"top": jnp.max(x) * by}, waves, params={"by": 2})
    >>> res["top"].shape, res.state
    ((3,), 'complete')
    """
    order, options = understand(
        function,
        source,
        params=params,
        name=name,
        version=version,
        select=select,
        axis=axis,
        dtype=dtype,
        reduce=reduce,
        chan_per_worker=chan_per_worker,
        channel_axis=channel_axis,
        memory=memory,
        chunks=chunks,
        batch_size=batch_size,
        batched=batched,
        engine=engine,
        workers=workers,
        override=override,
        resume=resume,
        on_error=on_error,
        retries=retries,
        source_token=source_token,
        strict=strict,
        dims=dims,
        attrs=attrs,
        compression=compression,
        durable=durable,
        progress=progress,
    )
    return carry_out(order, target, options)


def plan(
    function: Callable[..., PyTree[Any]], source: PyTree[Any], target: Any = None, **settings: Any
) -> Plan:
    """What `process` would do with the same arguments; nothing is computed or written.

    Args:
        function: As for `process`.
        source: Likewise.
        target: Likewise.
        settings: All keywords of `process`.

    Raises:
        JaxstoreError: As `process` would, before anything is made.

    >>> import jax.numpy as jnp, numpy as np
    >>> found = plan(lambda x: {"top": jnp.max(x)}, np.zeros((1000, 64), "f4"), name="peak")
    >>> found.n_items, found.n_units, [output.name for output in found.outputs]
    (1000, 1, ['top'])
    """
    order, options = understand(function, source, **settings)
    return foresee(order, target, options)
