"""What a user asks for, understood: what is computed, and how it is run.

Owned here: the settings of `process` with their defaults, and which of them decides what.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import PyTree

from jaxstore.processing.job import Care, OnError
from jaxstore.processing.options import Options
from jaxstore.processing.recipe import Order
from jaxstore.processing.reduce import Reduce
from jaxstore.processing.result import Result
from jaxstore.sizes import parse_size


def understand(
    function: Callable[..., PyTree[Any]],
    source: PyTree[Any],
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
) -> tuple[Order, Options]:
    """What is computed, and how; the arguments are those of `process`.

    Raises:
        ValueError: A setting makes no sense.
    """
    if reduce is not None and on_error == "record":
        raise ValueError(
            "on_error is 'record' and reduce is given: a reduction of some items is none of all. "
            "Leave out one of them, or select the items that do not fail."
        )
    _check_attrs(attrs)
    order = Order(
        function=function,
        source=source,
        params=dict(params or {}),
        name=name,
        version=version,
        select=select,
        axis=axis,
        dtype=dtype,
        reduce=reduce,
        chan_per_worker=chan_per_worker,
        channel_axis=channel_axis,
        source_token=source_token,
        dims=dict(dims or {}),
        is_batched=batched,
        is_strict=strict,
        attrs=dict(attrs or {}),
    )
    options = Options(
        memory_bytes=parse_size(memory, what="memory"),
        batch_size=batch_size,
        unit_items=chunks,
        engine=engine,
        workers=workers,
        override=override,
        resume=resume,
        care=Care(on_error, retries),
        shows_progress=progress,
        compression=compression,
        durable=durable,
    )
    return order, options


def _check_attrs(attrs: Mapping[str, Any] | None) -> None:
    try:
        json.dumps(dict(attrs or {}))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"attrs={attrs!r} cannot be kept: {error}. Give what JSON has: text, numbers, None, "
            "lists and dicts; arrays go into params."
        ) from error
