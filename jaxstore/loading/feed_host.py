"""The host's side of a feed: from what a program asks for to arrays of batches.

Owned here: shapes and dtypes of what a program gets, which numbers of the stream lanes have, and
what becomes of an error, of which JAX makes another one.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxstore.errors import BusyError, MismatchError
from jaxstore.loading.batch import HostBatch
from jaxstore.loading.buffers import Buffers, Spec
from jaxstore.loading.device import Global, check_dtypes, placement
from jaxstore.loading.engine import make_engine
from jaxstore.loading.feed_state import Cached
from jaxstore.loading.feed_stream import Stream
from jaxstore.loading.identity import identity_of
from jaxstore.loading.loader import Parts
from jaxstore.loading.memory import plan_memory
from jaxstore.loading.programs import wait_for_programs
from jaxstore.loading.randomness import as_words
from jaxstore.sources.geometry import Array

# One host call costs about 100 µs whatever it carries; more than this gains nothing.
_CACHED_BYTES = 8 << 20
_MOST_CACHED = 64
_KEPT_BYTES = 256 << 20  # of batches that one device passed over and others will ask for


class Host:
    """Gives batches by number, from one iterator for all chains.

    Args:
        parts: Of the loader.
        cached_batches: Of each chain in one call; None decides by their bytes.

    Raises:
        MismatchError: JAX would change values, or a batch is spread over several processes.
    """

    def __init__(self, parts: Parts, cached_batches: int | None) -> None:
        recipe, destination = parts.recipe, parts.destination
        size = recipe.schedule.batch_size
        goal = placement(destination.to, destination.where, destination.target, size)
        if isinstance(goal, Global):
            raise MismatchError(
                "feed: the sharding of this loader goes over the devices of several processes, "
                "and a program asks its own host alone. Make a loader without sharding="
            )
        # Inside a program all batches come from the host, so they are made there.
        on_host = replace(destination, shuffles_on_device=False)
        engine = make_engine(recipe, plan_memory(recipe, parts.work), on_host, goal)
        self._stream = Stream(engine, recipe.schedule, is_ahead=parts.work.prefetch > 0)
        self._has_seeds = destination.device_transform is not None
        self.identity = _number_of(identity_of(recipe, recipe.n_split_rows))
        self._error: BaseException | None = None
        self._failed: frozenset[int] | None = None  # numbers that were asked for then, if known
        self._is_released = False
        self._is_closed = parts.is_closed
        self._buffers: dict[int, Buffers] = {}  # of the last number of lanes
        self._lock = threading.Lock()  # guards all above: devices call on their own threads
        specs = recipe.specs() if recipe.batch_transform is None else self._specs_found()
        check_dtypes(specs)
        self._shapes = self._cached_shapes(specs, len(recipe.positions))
        self._batch_bytes = sum(spec.nbytes for spec in jax.tree.leaves(self._shapes))
        fitting = min(_MOST_CACHED, _CACHED_BYTES // max(1, self._batch_bytes))
        self.n_cached = cached_batches or max(1, fitting)

    def shapes(self) -> Cached:
        """What a chain carries: (slots, *shape) each."""
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct((self.n_cached, *s.shape), s.dtype), self._shapes
        )

    def take(
        self, is_used: Any, loader: Any, chain: Any, chains: Any, turn: Any
    ) -> tuple[Array, Cached]:
        """The next batches of the lanes whose batches are used up, and their turns then.

        Lanes that did not ask get anything.
        """
        # np.asarray first, everywhere: a callback that calls into JAX may deadlock (jax#24255).
        asks = np.asarray(is_used)
        turns = np.array(turn, np.uint32)
        wanted = None
        with self._lock:
            self._check_open()
            try:
                self._check_loader(np.asarray(loader))
                wanted = _wanted(
                    np.flatnonzero(asks).tolist(),
                    np.asarray(chain).reshape(-1).tolist(),
                    np.asarray(chains).reshape(-1).tolist(),
                    turns.reshape(-1, 2),
                    self.n_cached,
                )
                cached = self._filled(wanted, asks.size, int(np.max(chains)))
                # Another device may well succeed after one that failed.
                if self._failed is not None and self._failed <= wanted.keys():
                    self._error = None
            except BaseException as error:
                # Raising stops the program, but JAX turns any type into its own.
                self._error = error
                self._failed = None if wanted is None else frozenset(wanted)
                raise
        lead = asks.shape
        return turns, jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), cached)

    def check(self) -> None:
        """Raise what stopped a program, once, and refuse to go on after the end.

        Raises:
            BusyError: The feed was released.
        """
        error = self.error_once()
        if error is not None:
            raise error
        self._check_open()

    def error_once(self) -> BaseException | None:
        """What stopped a program, if that was not told before."""
        error, self._error = self._error, None
        return error

    def release(self) -> None:
        """Wait for programs that still run, then end."""
        if not self._is_released:
            wait_for_programs()
            self.end()

    def end(self) -> None:
        """End threads and let go of memory; programs that still run are stopped."""
        with self._lock:
            self._is_released = True
            self._buffers.clear()
            self._stream.close()

    def _check_open(self) -> None:
        if self._is_released:
            raise BusyError("this feed was released. Make a new one: js.feed(loader).")
        if self._is_closed():
            raise BusyError("the loader of this feed was closed. Close it after the release.")

    def _check_loader(self, found: Array) -> None:
        if np.any(found != self.identity):
            raise MismatchError(
                "next_batch: this state is of a feed with other data, order or batch size, so "
                "other batches would come. Make the loader as it was then, or begin anew with "
                "init_batch."
            )

    def _specs_found(self) -> dict[str, Spec]:
        arrays = {k: np.asarray(v) for k, v in self._stream.first().arrays.items()}
        return {label: Spec(value.shape, value.dtype) for label, value in arrays.items()}

    def _cached_shapes(self, specs: Mapping[str, Spec], n_rows: int) -> Cached:
        words = Spec((n_rows, 2), np.dtype(np.uint32))
        return Cached(
            {
                label: replace(spec, dtype=spec.dtype.newbyteorder("="))
                for label, spec in specs.items()
            },
            Spec((n_rows,), np.dtype(bool)),
            (words,) if self._has_seeds else (),
        )

    def _filled(
        self, wanted: Mapping[int, list[tuple[int, int]]], n_lanes: int, chains: int
    ) -> Cached:
        """Arrays of (lanes, slots, *shape) with batches where they are wanted."""
        tree = jax.tree.structure(self._shapes)
        out = self._blank(n_lanes) if n_lanes * self.n_cached > 1 else []
        n_kept = min(2 * chains * self.n_cached, _KEPT_BYTES // max(1, self._batch_bytes))
        coming = self._stream.batches(
            sorted(wanted), stride=chains, n_kept=n_kept if n_lanes < chains else 0
        )
        for number, host in coming:
            values = jax.tree.leaves(self._checked(host))
            if not out:  # one place in all: the batch is what is asked for
                return jax.tree.unflatten(tree, [value[None, None] for value in values])
            for lane, slot in wanted[number]:
                for target, value in zip(out, values, strict=True):
                    target[lane, slot] = value
        return jax.tree.unflatten(tree, out)

    def _blank(self, n_lanes: int) -> list[Array]:
        """Arrays of (lanes, slots, *shape), one per leaf of `Cached`, that nobody refers to."""
        leaves = jax.tree.leaves(self._shapes)
        if n_lanes not in self._buffers:
            lead = (n_lanes, self.n_cached)
            specs = {str(i): Spec((*lead, *s.shape), s.dtype) for i, s in enumerate(leaves)}
            self._buffers = {n_lanes: Buffers(specs)}
        taken = self._buffers[n_lanes].take()
        return [taken[str(i)] for i in range(len(leaves))]

    def _checked(self, host: HostBatch) -> Cached:
        """What a program gets of a batch.

        Raises:
            MismatchError: A transform made another shape or dtype than of the first batch.
        """
        arrays = {label: np.asarray(value) for label, value in host.arrays.items()}
        found = {label: (a.shape, a.dtype.newbyteorder("=")) for label, a in arrays.items()}
        wanted = {label: (s.shape, s.dtype) for label, s in self._shapes.arrays.items()}
        if found != wanted:
            raise MismatchError(
                f"batch_transform made {found} of batch {host.index} of epoch {host.epoch}, of "
                f"the first one {wanted}. In a compiled program all batches are alike: give equal "
                "labels, shapes and dtypes."
            )
        return Cached(arrays, host.mask, (as_words(host.seeds),) if self._has_seeds else ())


def _wanted(
    lanes: list[int], chain: list[int], chains: list[int], turns: Array, n: int
) -> dict[int, list[tuple[int, int]]]:
    """Lanes and slots by the number of the batch that goes there; `turns` move on by n.

    Raises:
        ValueError: There is no such chain.
    """
    wanted: dict[int, list[tuple[int, int]]] = {}
    for lane in lanes:
        if chain[lane] >= chains[lane]:
            raise ValueError(
                f"init_batch: chain {chain[lane]} of {chains[lane]}. Chains are numbered from 0, "
                "so give chain < chains."
            )
        turn = int(turns[lane, 0]) + (int(turns[lane, 1]) << 32)
        for slot in range(n):
            number = (turn + slot) * chains[lane] + chain[lane]
            wanted.setdefault(number, []).append((lane, slot))
        turns[lane] = (turn + n) % 2**32, (turn + n) >> 32
    return wanted


def _number_of(identity: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(identity, sort_keys=True).encode())
