"""What the collectors that write a run have in common.

Owned here: their public methods. What these do is `recording`'s; which store a collector writes to
is told by `collectors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.card import card
from jaxstore.saving.block import Block
from jaxstore.saving.checkpoint import Checkpoint
from jaxstore.saving.loaders import DataLoader, Loaders
from jaxstore.saving.recording import Recording
from jaxstore.saving.resumption import Found
from jaxstore.saving.session import Session, original_of
from jaxstore.saving.static import StaticInformation, declared_draws
from jaxstore.sizes import size


class StoreCollector:
    """What the collectors that write a run have in common; use one of them.

    As a context manager it closes itself, and an error of the writer, or Ctrl-C, leaves the block
    as itself instead of as the `JaxRuntimeError` into which JAX turns what a callback raises.
    It is a `DataCollector` too, for whoever hands it single draws.
    """

    def __init__(self, make_recording: Callable[[Loaders], Recording]) -> None:
        self._loaders = Loaders()
        self._make_recording = make_recording
        self.recording = make_recording(self._loaders)
        self._fed: dict[int, Session] = {}  # by chain, for single draws

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        is_jax = isinstance(error, jax.errors.JaxRuntimeError)
        if is_jax:
            original_of([self.recording])
        try:
            self.close()
        except BaseException as kept:
            if error is None or is_jax:
                raise kept from error
            # Else what leaves the block says more; `kept` is in `recording.error`.

    def __repr__(self) -> str:
        status = self.recording.status()
        state = "closed" if self.recording.is_closed else "open"
        return (
            f"<{type(self).__name__} {self.recording.place}: {state}, {status.n_chains} chains, "
            f"{status.draws:,} draws, {status.committed:,} committed>"
        )

    def _repr_html_(self) -> str:
        status = self.recording.status()
        facts = {
            "state": "closed" if self.recording.is_closed else "open",
            "chains": f"{status.n_chains:,}",
            "draws": f"{status.draws:,}, of them {status.committed:,} committed",
            "written": size(status.n_bytes),
        }
        return card(f"{type(self).__name__} at {self.recording.place}", facts)

    def take_up(self) -> Found | None:
        """Take up the run that is at this collector's place; None where nothing is.

        A run of this very collector that failed, or ended, is let go of first.
        """
        if self.recording.is_used:
            try:
                self.recording.close()
            except BaseException as error:
                if error is not self.recording.error:  # that was told when the run failed
                    raise
            self.recording = self._make_recording(self._loaders)
        return self.recording.find()

    def resume(
        self, *, scheduler_state: PyTree = None, solver_state: PyTree = None
    ) -> Checkpoint | None:
        """Take a run up again: the next `init_save` goes on where its last checkpoint was.

        Draws after the checkpoint are dropped then, and nothing before; they will come again.

        Args:
            scheduler_state: Anything in the structure of what `save` was given; without it the
                state comes as nested dicts.
            solver_state: Likewise.

        Returns:
            The checkpoint: its `step`, `scheduler_state` and `solver_state`. None where there is
            nothing to go on with, and the run has to begin.

        Raises:
            BusyError: Somebody writes to the run.
            FormatError: What is there is no run, or damaged.
            MismatchError: The run has no checkpoint to go on from, or other states.

        >>> import jax, jax.numpy as jnp, jaxstore as js
        >>> collector = js.MemoryCollector()
        >>> init_save, save, postprocess_save = js.save(collector, checkpoint_every=10)
        >>> def step(carry, i):
        ...     state, x = carry
        ...     x = x + i
        ...     state, _ = save(state, True, {"x": x}, solver_state=x)
        ...     return (state, x), None
        >>> def run(first, n):
        ...     point = collector.resume(solver_state=0)
        ...     x = jnp.array(0) if point is None else point.solver_state
        ...     done = 0 if point is None else point.step
        ...     return jax.lax.scan(step, (init_save({"x": x}), x), jnp.arange(done, n))[0]
        >>> _ = run(0, 25)  # stops for some reason; the last checkpoint is that of step 20
        >>> postprocess_save(run(20, 50)[0])["samples"]["x"][-1]
        np.int32(1225)
        """
        found = self.take_up()
        point = found.checkpoint if found else None
        if point is None or not point.senders:
            return None
        given = {"scheduler_state": scheduler_state, "solver_state": solver_state}
        templates = {key: tree for key, tree in given.items() if tree is not None}
        point = replace(point, templates=templates)
        for key in templates:
            point.part(key)  # refuses another structure before anything is changed
        return point

    def register_data_loader(self, data_loader: DataLoader) -> None:
        """Keep the position of a loader with each checkpoint, and set it there on resumption.

        All that the next step takes from it must be in the states given to `save`.

        Args:
            data_loader: Anything with `state()`, which gives JSON, and `restore(state)`.

        Raises:
            TypeError: It lacks them.
            MismatchError: The run that was taken up has no position for it.
        """
        self._loaders.register(data_loader)

    def flush(self) -> None:
        """Wait until every draw that arrived is with the store. Raises what stopped the writer."""
        self.recording.flush()

    def close(self) -> None:
        """Write and commit what arrived and let go of the store; again does nothing.

        Raises:
            BaseException: What stopped the writer, as itself.
        """
        self.recording.close()

    def register_chain(
        self,
        init_sample: PyTree = None,
        init_checkpoint: PyTree = None,
        static_information: StaticInformation | None = None,
    ) -> int:
        """Begin a chain to hand single draws to; returns its number."""
        session = self.recording.begin(init_sample, declared=declared_draws(static_information))
        chain = session.open_chains(1)
        self._fed[chain] = session
        return chain

    def save(self, chain_id: int, values: Sequence[Any]) -> None:
        """Take one draw of a registered chain: the leaves of the sample."""
        session = self._fed[chain_id]
        steps = np.full((1, 1), session.counts[chain_id], np.int64)
        leaves = tuple(np.asarray(value)[None, None] for value in values)
        session.put(Block(chain_id, steps, leaves, sender_chains=1))

    def finalize(self, chain_id: int) -> None:
        """Wait until the draws of a registered chain are with the store."""
        self.flush()

    def finished(self, chain_id: int) -> PyTree:
        """End a registered chain; returns its samples in the structure of `init_sample`."""
        return self.recording.finish([self._fed.pop(chain_id)], has_chain_axis=False)
