"""The only `io_callback` of the saving wing: one host call for all chains of a running program.

Owned here: how a call gets out of a compiled program under every transformation, and the registry
that leads it to its receiver. What lies in a payload is `buffer`'s; what it means is `lanes`'.

Three facts about JAX bind this file (measured on 0.10.2 and 0.12, CPU):

- `vmap` of an `io_callback` becomes one host call per lane, and `vmap` of a `cond` that holds one
  is refused. A `custom_vmap` whose rule calls itself with the batched operands makes one call.
- A jitted function keeps every Python object it closed over, so the receiver travels as a number
  in the payload and is looked up when the call arrives.
- Reverse-mode differentiation of a scan drops callbacks whose result nobody uses, silently. So
  the call returns the tick of the next flush, which the program needs to go on.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback
from jaxtyping import Array

from jaxstore.saving.block import HostArray


class Point(NamedTuple):
    """What a checkpoint adds to a payload: the state of the sampler."""

    step: int  # uint32; calls of save so far
    layout: Any  # of the state, as given to `number_of`
    leaves: tuple[HostArray, ...]  # (lanes, *leaf.shape) each
    lanes: tuple[int, ...]  # their shape before they were flattened


class Payload(NamedTuple):
    """What one host call brings, lanes flattened to axis 0."""

    chain: HostArray  # (lanes,) int32; -1 where the caller named no chain
    tick: int  # uint32 clock after the last step in the ring
    is_ragged: bool  # whether lanes may keep different steps
    n_senders: int  # devices that send chains of their own, this one included
    steps: HostArray  # (lanes, slots) uint32; 2 * step of each slot, plus one where it was kept
    leaves: tuple[HostArray, ...]  # (lanes, slots, *leaf.shape) each
    point: Point | None = None  # where a checkpoint is due

    def take(self, lanes: list[int]) -> Payload:
        """These lanes of it, in ascending order; a copy, unless they are all."""
        if len(lanes) == self.chain.size:
            return self
        return self._replace(
            chain=self.chain[lanes],
            steps=self.steps[lanes],
            leaves=tuple(leaf[lanes] for leaf in self.leaves),
        )


class Receiver(Protocol):
    """Who takes payloads on the host."""

    def receive(self, payload: Payload) -> int:
        """Take a payload, which is private to the receiver; returns the tick of the next flush."""
        ...


_HEAD = 6  # words before the steps: receiver, chain, ragged or not, senders, tick, step

_receivers: dict[int, Receiver] = {}
_numbers = itertools.count(1)
_layouts: dict[Hashable, int] = {}  # grows with the programs that are traced, not with their runs
_lock = threading.Lock()  # guards all of them: callbacks arrive on threads of the runtime


def number_of(layout: Hashable) -> int:
    """The number under which something that is known while tracing travels in payloads."""
    with _lock:
        return _layouts.setdefault(layout, len(_layouts))


def register(receiver: Receiver) -> int:
    """Give a receiver the number under which payloads find it."""
    with _lock:
        number = next(_numbers) % 2**32
        _receivers[number] = receiver
    return number


def find_receiver(number: int) -> Receiver | None:
    """The receiver of this number, None once it was released."""
    with _lock:
        return _receivers.get(number)


def release(receiver: Receiver) -> None:
    """Forget a receiver; payloads that still come for it are errors."""
    with _lock:
        for number in [n for n, r in _receivers.items() if r is receiver]:
            del _receivers[number]


def register_when_run(begin: Callable[[], tuple[Receiver, Sequence[int]]]) -> tuple[Array, Array]:
    """Receiver and clock that `begin` gives: now, or each time the traced program runs.

    Returns:
        The number of the receiver, shape=(), and the clock, shape=(2,), both uint32.
    """

    def call() -> tuple[HostArray, HostArray]:
        receiver, clock = begin()
        return np.asarray(register(receiver), np.uint32), np.asarray(clock, np.uint32)

    if not isinstance(jnp.zeros((), jnp.uint32), jax.core.Tracer):
        number, clock = call()
        return jnp.asarray(number), jnp.asarray(clock)
    return io_callback(
        call, (jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((2,), jnp.uint32))
    )


def payload_of(
    chain: Any,
    clock: Any,
    is_ragged: Any,
    steps: Any,
    leaves: Sequence[Any],
    point: Sequence[Any] = (),
    *,
    n_senders: Any = 1,
) -> Payload:
    """Flatten the lanes of every transformation around the program, outermost slowest.

    An array that a transformation did not map has an axis of length one there. `point` is nothing,
    or what `send` has of it.
    """
    chain, steps, clock = np.asarray(chain), np.asarray(steps), np.asarray(clock)
    arrays = [np.asarray(leaf) for leaf in leaves]
    state = [np.asarray(leaf) for leaf in point[2:]]
    n_axes, slots = chain.ndim, steps.shape[-1]
    lead = np.broadcast_shapes(*{a.shape[:n_axes] for a in (chain, steps, *arrays, *state)})
    lanes = math.prod(lead)

    def flat(array: HostArray) -> HostArray:
        inner = array.shape[n_axes:]
        if array.shape[:n_axes] != lead:
            array = np.broadcast_to(array, (*lead, *inner))
        return array.reshape(lanes, *inner)

    tick, step = clock.reshape(-1, 2)[0].tolist()
    return Payload(
        flat(chain),
        tick,
        bool(np.any(is_ragged)),
        first_of(n_senders),
        flat(steps).reshape(lanes, slots),
        tuple(flat(a) for a in arrays),
        Point(step, layout_of(point[1]), tuple(flat(a) for a in state), lead) if point else None,
    )


def layout_of(number: Any) -> Any:
    """What was given to `number_of`."""
    wanted = first_of(number)
    return next(layout for layout, known in list(_layouts.items()) if known == wanted)


def first_of(number: Any) -> int:
    """A number that all lanes have in common."""
    return int(np.asarray(number).flat[0])


def _receive(head: Any, leaves: Sequence[Any], point: Sequence[Any]) -> HostArray:
    # np.asarray first, everywhere: a callback that calls into JAX may deadlock (jax#24255).
    head = np.asarray(head)
    receiver = find_receiver(first_of(head))
    if receiver is None:
        raise RuntimeError("a draw arrived for chains that were already post-processed or closed")
    chain, is_ragged, n_senders = head[..., 1].view(np.int32), head[..., 2], head[..., 3]
    clock, steps = head[..., 4:_HEAD], head[..., _HEAD:]
    payload = payload_of(chain, clock, is_ragged, steps, leaves, point, n_senders=n_senders)
    return np.asarray(receiver.receive(payload) % 2**32, np.uint32)


def head_of(receiver: Array, chain: Array, clock: Array, is_ragged: Array, steps: Array) -> Array:
    """All that is not a draw in one array, shape=(..., _HEAD + slots), dtype=uint32.

    JAX takes 40 µs for each operand of a callback, be it ever so small.
    """
    number = jax.lax.bitcast_convert_type(chain, jnp.uint32)
    words = (receiver, number, is_ragged, jnp.uint32(n_devices()))
    parts = [*(word.astype(jnp.uint32)[..., None] for word in words), clock, steps]
    lead = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return jnp.concatenate([jnp.broadcast_to(p, (*lead, p.shape[-1])) for p in parts], axis=-1)


def n_devices() -> int:
    """Devices of this process that run the program which is traced, each for chains of its own."""
    mesh = jax.sharding.get_abstract_mesh()  # of `shard_map`, and of `pmap`, which is one
    return max(1, math.prod(mesh.shape[axis] for axis in mesh.manual_axes) // jax.process_count())


@custom_vmap
def any_chain(keep: Array) -> tuple[Array, Array]:
    """Whether any chain keeps this step's draw, and whether chains may differ in that.

    Both have shape=() under every `vmap`, so what is decided by them never gets a chain axis.
    """
    return keep, jnp.zeros((), bool)


@any_chain.def_vmap
def _(axis_size: int, in_batched: Any, keep: Array) -> Any:
    ticked, _ = any_chain(jnp.any(keep, axis=0))
    return (ticked, jnp.ones((), bool)), (False, False)


@custom_vmap
def shared(clock: Array) -> Array:
    """A value that all lanes have in common, without the lane axis that a mapped state gave it."""
    return clock


@shared.def_vmap
def _(axis_size: int, in_batched: Any, clock: Array) -> Any:
    return shared(jnp.max(clock, axis=0)), False


@custom_vmap
def send(
    is_time: Array, stop: Array, operands: tuple[Array, ...], point: tuple[Array, ...]
) -> Array:
    """One host call with every chain's operands, if it is time; shape=() under every `vmap`.

    Args:
        is_time: shape=(), the same for all lanes.
        stop: shape=(), uint32, the tick of the next flush, returned as it is when there is none.
        operands: number, chain, clock, is_ragged, steps, and the leaves of the ring.
        point: interval of checkpoints, number of the layout, and leaves of the sampler's state;
            () for a program without checkpoints.

    Returns:
        shape=(), uint32: the tick of the next flush.
    """

    # The cond is in here, hidden from vmap; every operand is explicit, since custom_vmap fails
    # on a tracer that it closed over.
    def call(point: tuple[Array, ...]) -> Array:
        tick = jax.ShapeDtypeStruct((), jnp.uint32)
        following = io_callback(_receive, tick, head_of(*operands[:5]), operands[5:], point)
        return following + (stop - stop)  # varies over the mesh axes that stop does

    def call_with_point() -> Array:
        # Decided in here: what a loop body computes at every step costs, and what it copies more.
        step, every = (a.reshape(-1) for a in (operands[2], point[0]))
        return jax.lax.cond(step[1] % every[0] == 0, lambda: call(point), lambda: call(()))

    return jax.lax.cond(is_time, call_with_point if point else lambda: call(()), lambda: stop)


@send.def_vmap
def _(
    axis_size: int,
    in_batched: Any,
    is_time: Array,
    stop: Array,
    operands: tuple[Array, ...],
    point: tuple[Array, ...],
) -> Any:
    # An axis of one costs nothing; the host repeats what is the same for all lanes.
    spread = jax.tree.map(
        lambda x, is_batched: x if is_batched else jnp.expand_dims(x, 0),
        (operands, point),
        tuple(in_batched[2:]),
    )
    return send(is_time, stop, *spread), False
