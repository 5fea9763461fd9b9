"""Many independent simulations into one result: `ensemble`.

Owned here: what a user writes for it. It is a process over the numbers of its members, so all that
holds of a process holds of an ensemble.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.processing.carrying import carry_out
from jaxstore.processing.ensemble_items import Numbers
from jaxstore.processing.ensemble_simulation import Simulation, Trajectory
from jaxstore.processing.job import OnError
from jaxstore.processing.kernel import name_of
from jaxstore.processing.reduce import Reduce
from jaxstore.processing.request import understand
from jaxstore.processing.result import Result

_KEY = "key"  # of the ensemble, among the parameters of its result
_STATE = "numbered"  # of the source, which never changes


def ensemble(
    simulate: Callable[..., PyTree[Any]],
    n: int,
    target: Any,
    *,
    key: Any,
    params: Mapping[str, Any] | None = None,
    init: Callable[..., PyTree[Any]] | None = None,
    length: int | None = None,
    thin: int = 1,
    name: str = "",
    version: str | None = None,
    reduce: str | Reduce | None = None,
    memory: int | str = "2GB",
    chunks: int | None = None,
    batch_size: int | None = None,
    engine: Any = None,
    workers: int | None = None,
    override: bool = False,
    resume: bool | Result = True,
    on_error: OnError = "raise",
    retries: int = 0,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    compression: str | None = "zstd",
    durable: bool = False,
    progress: bool = True,
) -> Result:
    """Run n independent simulations, and store what each of them gives.

    Member i gets the key `fold_in(key, i)`, so that its random numbers depend on nothing else.
    Engines, workers and interruptions change no bit of the result. The same call with a larger n
    goes on with the same result; with a smaller n it shows the first n members. It is the key, not
    n, that makes it another one; only with `reduce` n counts too.

    Long trajectories are given as steps: with `length` and `init`, `simulate` is one step. Outputs
    are then (item, time, ...), written block by block, so that memory is bounded whatever the
    length. A trajectory that was interrupted begins again; those that were written are kept.

    Args:
        simulate: `simulate(key_i, i, **params)` gives a pytree of arrays. With `length` a step:
            `step(key_it, state, t, **params)` gives the next state and an output, where `key_it`
            is `fold_in(key_i, t)`.
        n: Members.
        target: Where the result goes: a path or URL of a store, with ":/group" for a group in it;
            a handle; "memory".
        key: Of `jax.random.key`, or a raw one. It is kept with the result.
        params: Keywords of the functions, kept with the result, and compared.
        init: With `length`: `init(key_i0, i, **params)` gives the state before the first step. Its
            key is another than those of the steps, also if it is split.
        length: Steps of a trajectory; None for simulations in one call.
        thin: Of so many steps the output of the last is kept.
        name: Of the process; that of `simulate` by default.
        version: As for `process`, as are all that follow.
        reduce: "mean", "variance" and so on over members; trajectories are then held whole.
        memory: What may be taken at most.
        chunks: Members in a chunk, which is what is computed and marked as a whole. It stays when
            more members come, so give it where a few shall become many.
        batch_size: Members computed at once.
        engine: Who computes.
        workers: Units computed at once.
        override: Start afresh in a new group.
        resume: Whether to continue.
        on_error: What to do when a member fails; with `length` only "raise".
        retries: Of a unit that failed.
        dims: Names of the axes of outputs, without that of members.
        attrs: Kept with the result.
        compression: Of a new store.
        durable: Marks outlive a power loss.
        progress: Show a bar.

    Raises:
        MismatchError: The functions, the key and the settings do not go together.
        Exception: As for `process`.

    >>> import jax.numpy as jnp
    >>> def walk(key, i, *, steps):
    ...     return {"end": jnp.sum(jax.random.normal(key, steps))}
    >>> runs = ensemble(walk, 100, "memory", key=jax.random.key(0), params={"steps": 9})
    >>> runs["end"].shape
    (100,)
    """
    _check_key(key)
    settings = dict(params or {})
    if _KEY in settings:
        raise MismatchError("params have 'key', which is the key of the ensemble. Name it so.")
    if length is not None and on_error != "raise":
        raise MismatchError(
            f"on_error={on_error!r} does not go with length: a trajectory that fails is not at "
            "rest as a whole. Leave it out."
        )
    function = _member(simulate, init, length, thin, settings)
    order, options = understand(
        function,
        Numbers(n),
        params={_KEY: key, **settings},
        name=name,
        version=version,
        reduce=reduce,
        memory=memory,
        chunks=chunks,
        batch_size=batch_size,
        batched=length is not None,
        engine=engine,
        workers=workers,
        override=override,
        resume=resume,
        on_error=on_error,
        retries=retries,
        source_token=_STATE,
        dims=dims,
        attrs=attrs,
        compression=compression,
        durable=durable,
        progress=progress,
    )
    return carry_out(replace(order, is_growing=reduce is None), target, options)


def _member(
    simulate: Callable[..., PyTree[Any]],
    init: Callable[..., PyTree[Any]] | None,
    length: int | None,
    thin: int,
    params: Mapping[str, Any],
) -> Simulation | Trajectory:
    """What is computed for one number."""
    if length is None and init is None and thin == 1:
        _check_call(simulate, params, "simulate(key, i)", 2)
        return Simulation(simulate)
    if length is None or init is None:
        raise MismatchError(
            "length, init and thin go together, for simulations given as steps: "
            "ensemble(step, n, target, key=key, init=init, length=1000). Leave all out for others."
        )
    _check_call(init, params, "init(key, i)", 2)
    _check_call(simulate, params, "step(key, state, t)", 3)
    return Trajectory(init, simulate, length, thin)


def _check_key(key: Any) -> None:
    """Refuse what is no single key."""
    try:
        jax.eval_shape(jax.random.fold_in, jnp.asarray(key), 0)
    except (TypeError, ValueError) as error:
        shown = f"{key.dtype}{key.shape}" if hasattr(key, "dtype") else repr(key)
        raise MismatchError(f"key is {shown}. Give one key, such as jax.random.key(0).") from error


def _check_call(
    function: Callable[..., Any], params: Mapping[str, Any], shown: str, n_args: int
) -> None:
    """Refuse a function that does not take what it will get, where it tells what it takes."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # one of C tells nothing; tracing shows
    try:
        signature.bind(*[None] * n_args, **params)
    except TypeError as error:
        raise MismatchError(
            f"{name_of(function)}{signature} is called as {shown[:-1]}, **params) with the "
            f"parameters {sorted(params)}: {error}."
        ) from error
