"""`no_save`: the triple of `save`, with the draws kept on the device.

Owned here: an array of the declared length in the carry. Nothing leaves the program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from jaxstore.errors import TooManyDrawsError
from jaxstore.saving import buffer
from jaxstore.saving.static import StaticInformation, declared_draws
from jaxstore.saving.triple import Triple


class DeviceState(NamedTuple):
    """Draws kept on the device, for the carry of a loop."""

    n_kept: Array  # shape=(), weak int32; draws kept, also those beyond the declared number
    samples: PyTree  # (declared, *leaf.shape) each


def no_save() -> Triple:
    """Keep draws on the device instead of the host: for few and small ones.

    The triple is that of `save`, also under `vmap`; `static_information` is needed, since it is
    the length of the arrays. Outside `jit`, `postprocess_save` cuts them to the draws that were
    kept. Inside, shapes cannot depend on that, so cut them by `sample_count`.

    Raises:
        TooManyDrawsError: By `postprocess_save`: more draws than declared. Inside `jit` nothing
            can be raised; `sample_count` then exceeds the length of the arrays.

    >>> import jax, jax.numpy as jnp, jaxstore as js
    >>> init_save, save, postprocess_save = js.no_save()
    >>> state = init_save({"i": jnp.array(0)}, None, js.static_information(samples_collected=3))
    >>> state, _ = jax.lax.scan(lambda s, i: save(s, i % 2 == 0, {"i": i}), state, jnp.arange(5))
    >>> postprocess_save(state, None)["samples"]
    {'i': Array([0, 2, 4], dtype=int32)}
    """
    return Triple(_init, _save, _postprocess)


def _init(
    init_sample: PyTree,
    init_checkpoint: PyTree = None,
    static_information: StaticInformation | None = None,
) -> DeviceState:
    declared = declared_draws(static_information)
    if declared is None:
        raise ValueError(
            "no_save keeps draws in an array on the device and must know its length: pass "
            "static_information(samples_collected=n) to init_save, or use save."
        )
    buffer.shapes_of(init_sample)  # refuses what is no array

    def repeat(leaf: Any) -> Any:
        if buffer.is_key(leaf):
            return jnp.broadcast_to(leaf, (declared, *leaf.shape))
        leaf = jnp.asarray(leaf)
        return jnp.zeros((declared, *leaf.shape), leaf.dtype)

    return DeviceState(jnp.asarray(0), jax.tree.map(repeat, init_sample))


def _save(
    state: DeviceState,
    keep: ArrayLike,
    sample: PyTree,
    scheduler_state: PyTree = None,
    solver_state: PyTree = None,
) -> tuple[DeviceState, None]:
    buffer.check_like(sample, state.samples, axes=1)
    keep = buffer.check_keep(keep)

    def write(array: Array, leaf: Any) -> Array:
        # "drop": a draw beyond the end changes nothing; the count tells of it.
        at = jnp.where(keep, state.n_kept, array.shape[0])
        leaf = leaf if buffer.is_key(leaf) else jnp.asarray(leaf)
        return array.at[at].set(leaf, mode="drop")

    return DeviceState(state.n_kept + keep, jax.tree.map(write, state.samples, sample)), None


def _postprocess(state: DeviceState, _: Any = None) -> dict[str, Any]:
    if not isinstance(state.n_kept, jax.core.Tracer):
        most = int(np.max(np.asarray(state.n_kept), initial=0))
        for array in jax.tree.leaves(state.samples):
            length = array.shape[state.n_kept.ndim]
            if most > length:
                raise TooManyDrawsError(
                    f"{most} draws were kept, static_information declares {length}. Declare as "
                    "many as keep is true, or use save, which grows."
                )
        axes = (slice(None),) * state.n_kept.ndim
        state = state._replace(
            samples=jax.tree.map(lambda a: a[(*axes, slice(0, most))], state.samples)
        )
    return {"sample_count": state.n_kept, "samples": state.samples}
