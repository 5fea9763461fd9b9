"""The checkpoints of a scan: when one is due, and how a carry becomes one.

Owned here: the pace. The carry is copied on the device, since the next block takes its memory over,
and comes to the host while that block runs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxstore.saving import buffer
from jaxstore.saving.checkpoint import Checkpoint, StateLayout, layout_of_state
from jaxstore.saving.program import Program
from jaxstore.saving.recorder import is_time
from jaxstore.saving.recording import Recording
from jaxstore.saving.schedule import kept_shape
from jaxstore.saving.session import Session
from jaxstore.stores.base import Json

CHECKPOINT_EVERY_S = 10.0  # what a kill may cost; a carry that takes long to write comes less often


@dataclass(frozen=True, slots=True)
class Pulse:
    """When checkpoints are due."""

    every: int | None  # steps; None goes by time
    is_on: bool

    @staticmethod
    def of(checkpoint_every: int | None, *, is_default: bool) -> Pulse:
        """From what the caller said.

        Raises:
            ValueError: That makes no sense.
        """
        n = checkpoint_every
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
            raise ValueError(f"checkpoint_every must be a whole number >= 0 of steps, got {n!r}")
        return Pulse(n or None, is_default if n is None else n > 0)

    @property
    def told(self) -> Json:
        """For the settings of a run."""
        return self.every or f"{CHECKPOINT_EVERY_S:g} s"

    def stop(self, index: int, stop: int, *, is_time: bool) -> int:
        """Where a block that begins at `index` has to end at last."""
        if not self.is_on or self.every is None or not is_time:
            return stop
        return min(stop, (index // self.every + 1) * self.every)

    def is_due(self, index: int, *, since_s: float, is_time: bool) -> bool:
        """Whether one is due at a step, `since_s` after the last."""
        if not self.is_on or not is_time:
            return False
        return since_s > CHECKPOINT_EVERY_S if self.every is None else index % self.every == 0


class Keeper:
    """Makes the checkpoints of one scan."""

    def __init__(
        self, blocks: Program, pulse: Pulse, session: Session, recording: Recording
    ) -> None:
        self._pulse = pulse
        self._session = session
        self._recording = recording
        keep = blocks.schedule.keep
        self._is_ragged = keep is not None and kept_shape(keep, blocks.chains) != ()
        self._layout: StateLayout | None = None
        self._kept_at = time.monotonic()
        self._kept: tuple[int, PyTree, tuple[Json, ...]] | None = None

    def stop(self, index: int, stop: int) -> int:
        """Where a block that begins at `index` has to end at last."""
        return self._pulse.stop(index, stop, is_time=self._is_time())

    def is_due(self, index: int) -> bool:
        """Whether a checkpoint is due at a step."""
        since_s = time.monotonic() - self._kept_at
        return self._pulse.is_due(index, since_s=since_s, is_time=self._is_time())

    def _is_time(self) -> bool:
        """Whether the last checkpoint is so long ago that another takes little of the time."""
        since_s = time.monotonic() - self._kept_at
        return is_time(since_s, cost_s=self._recording.checkpoint_s)

    def keep(self, index: int, carry: PyTree) -> None:
        """Copy a carry, if checkpoints are made at all; `hand_over` comes when its draws have."""
        if not self._pulse.is_on:
            return
        if self._recording.has_loaders:
            jax.block_until_ready(carry)  # the program has taken what it takes before this step
        copied = jax.tree.map(jnp.copy, carry)
        jax.tree.map(lambda a: buffer.raw(a).copy_to_host_async(), copied)
        self._kept = index, copied, self._recording.positions()
        self._kept_at = time.monotonic()

    def hand_over(self) -> None:
        """Queue the checkpoint of the carry that was copied, behind the draws before it."""
        if self._kept is None:
            return
        (step, carry, positions), self._kept = self._kept, None
        raw = [np.asarray(buffer.raw(leaf)) for leaf in jax.tree.leaves(carry)]
        if self._layout is None:
            self._layout = layout_of_state({"carry": carry})
        self._recording.put_checkpoint(
            Checkpoint(
                step=step,
                draws=self._session.draws,
                layout=self._layout,
                leaves=tuple(raw),
                lanes=(),
                senders=self._session.senders(is_ragged=self._is_ragged),
                loaders=positions,
            )
        )
