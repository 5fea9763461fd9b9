"""The sink of a user's own collector: one call per draw, from the writer thread.

Owned here: the translation of blocks into the calls of `DataCollector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import PyTree

from jaxstore.errors import MismatchError
from jaxstore.saving.block import Block
from jaxstore.saving.parts import Part
from jaxstore.saving.progress import Meter, Status
from jaxstore.saving.session import Session
from jaxstore.saving.writer import Writer
from jaxstore.stores.base import Json


class UserSink:
    """Feeds a collector; one per `init_save`.

    Args:
        collector: A `DataCollector`.
        init_sample: Passed on to it, and so are the two others.
    """

    def __init__(
        self, collector: Any, init_sample: PyTree, init_checkpoint: PyTree, information: Any
    ) -> None:
        self._collector = collector
        self._registration: dict[str, Any] = {
            "init_sample": init_sample,
            "init_checkpoint": init_checkpoint,
            "static_information": information,
        }
        # The first chain now, so that what is wrong with a sample shows at init_save. How many
        # there are is known when draws arrive.
        self._ids = {0: collector.register_chain(**self._registration)}
        self._claimed: set[int] = set()
        self._n_chains = 0
        self._draws = 0
        self._meter = Meter(is_shown=False)
        self._writer = Writer(self._write, name=type(collector).__name__)

    @property
    def error(self) -> BaseException | None:
        """What stopped the collector, None while it works."""
        return self._writer.error

    def allocate(self, n_chains: int) -> int:
        """Number that many new chains; returns the first number."""
        first, self._n_chains = self._n_chains, self._n_chains + n_chains
        for chain in range(first, self._n_chains):
            self._register(chain)
        return first

    def claim(self, chain: int) -> None:
        """Take a chain number that the caller named; raises if it is taken."""
        if chain in self._claimed:
            raise MismatchError(
                f"chain {chain} has draws of another program. Give init_save chain numbers that "
                "are all different, or none."
            )
        self._claimed.add(chain)
        self._n_chains += 1
        self._register(chain)

    def put(self, block: Block) -> None:
        """Queue a block; waits while the queue is full. Raises what stopped the collector."""
        self._writer.put(block, block.n_bytes)
        self._draws += block.n_chains * block.n_draws

    def positions(self) -> tuple[Json, ...]:
        """Nothing: a collector of the user's keeps the positions of its loaders itself."""
        return ()

    def take_part(self, part: Part) -> None:
        """Queue the state of a sender's chains, behind the draws that precede it."""
        self._writer.put(part, sum(leaf.nbytes for leaf in part.leaves))

    def fail(self, error: BaseException) -> None:
        """Take no more draws; what is queued is still handed on."""
        self._writer.fail(error)

    def show(self, meter: Meter) -> None:
        """Show progress on this meter until `finish`."""
        self._meter = meter

    def status(self) -> Status:
        """How far saving is."""
        return Status(self._n_chains, self._draws, self._draws, 0, self._writer.waiting_bytes)

    def finish(self, sessions: Sequence[Session], *, has_chain_axis: bool) -> Any:
        """Finalize each chain; what `finished` gives for it, a list of that for several."""
        self._writer.drain()
        self.close()
        ids = [self._ids[chain] for session in sessions for chain in session.chains]
        for chain_id in ids:
            self._collector.finalize(chain_id)
        results = [self._collector.finished(chain_id) for chain_id in ids]
        return results if has_chain_axis else results[0]

    def abandon(self, error: BaseException) -> None:
        """End the thread; the collector's draws are its own."""
        self.fail(error)
        self.close()

    def close(self) -> None:
        """End the thread and the progress bar."""
        self._writer.stop()
        self._meter.close(self.status())

    def _register(self, chain: int) -> None:
        if chain not in self._ids:
            self._ids[chain] = self._collector.register_chain(**self._registration)

    def _write(self, item: Any) -> None:
        if isinstance(item, Part):
            self._write_part(item)
        else:
            self._write_block(item)
        self._meter.show(self.status())

    def _write_part(self, part: Part) -> None:
        for lane, chain in enumerate(part.sender.chains):
            state = part.state_of(lane)
            both = (state["scheduler_state"], state["solver_state"])
            self._collector.checkpoint(self._ids[chain], both)

    def _write_block(self, block: Block) -> None:
        for chain in block.split():
            chain_id = self._ids[chain.first_chain]
            for i in range(chain.n_draws):
                self._collector.save(chain_id, [np.asarray(a[0, i]) for a in chain.leaves])
