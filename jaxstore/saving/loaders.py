"""Data loaders whose positions go into checkpoints.

Owned here: the interface of such a loader, and which position belongs to which of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxstore.errors import MismatchError
from jaxstore.stores.base import Json


@runtime_checkable
class DataLoader(Protocol):
    """Anything that knows its position as JSON.

    The position is asked for on the host while the program goes on. So a loader whose batches a
    loop in Python takes must not move on before the programs that were started are through: if it
    has a method `wait_for_programs()`, that is called once, to tell it so.
    """

    def state(self) -> Json:
        """The position: what `restore` needs to give what would have come next."""
        ...

    def restore(self, state: Json) -> None:
        """Go on at a position."""
        ...


class Loaders:
    """The loaders of a run, in the order in which they were registered."""

    def __init__(self) -> None:
        self._loaders: list[DataLoader] = []
        self._expected: Sequence[Json] = ()

    def register(self, loader: DataLoader) -> None:
        """Keep the positions of a loader from now on; in a run taken up, set it to its own.

        Raises:
            TypeError: It has no `state` and `restore`.
            MismatchError: The run that was taken up has no position for it.
        """
        if not isinstance(loader, DataLoader):
            raise TypeError(
                f"register_data_loader: {type(loader).__name__} has no methods state() and "
                "restore(state). Give a loader that knows its position."
            )
        number = len(self._loaders)
        if self._expected and number >= len(self._expected):
            raise MismatchError(
                f"the checkpoint has the positions of {len(self._expected)} data loaders, this is "
                f"number {number + 1}. Register those that the run began with, in their order."
            )
        self._loaders.append(loader)
        if wait := getattr(loader, "wait_for_programs", None):
            wait()
        if self._expected:
            loader.restore(self._expected[number])

    def expect(self, positions: Sequence[Json]) -> None:
        """Set the loaders to the positions of a checkpoint, those registered later too."""
        if len(self._loaders) > len(positions):
            raise MismatchError(
                f"{len(self._loaders)} data loaders are registered, the checkpoint has the "
                f"positions of {len(positions)}. Register those that the run began with."
            )
        self._expected = positions
        for loader, position in zip(self._loaders, positions, strict=False):
            loader.restore(position)

    def check(self) -> None:
        """Refuse to go on without a loader that the checkpoint has a position for."""
        if len(self._loaders) < len(self._expected):
            raise MismatchError(
                f"the checkpoint has the positions of {len(self._expected)} data loaders, "
                f"{len(self._loaders)} are registered. Register them before the run goes on."
            )

    def positions(self) -> tuple[Json, ...]:
        """Where they are now.

        Raises:
            TypeError: A position is no JSON.
        """
        found = tuple(loader.state() for loader in self._loaders)
        # A copy, since a loader may hand out what it goes on to change.
        copied: list[Json] = json.loads(json.dumps(found))
        return tuple(copied)

    def __len__(self) -> int:
        return len(self._loaders)
