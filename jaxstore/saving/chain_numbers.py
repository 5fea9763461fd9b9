"""The numbers of a run's chains.

Owned here: that no two programs have the same one.
"""

from __future__ import annotations

import threading

from jaxstore.errors import MismatchError


class ChainNumbers:
    """Hands out chain numbers, and takes those that the caller names.

    Args:
        place: Of the run, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._taken: set[int] = set()
        self._lock = threading.Lock()  # guards _taken: devices begin on their own threads
        self.n_chains = 0  # one more than the largest number

    def allocate(self, n_chains: int) -> int:
        """Number that many new chains; returns the first number."""
        with self._lock:
            first = self.n_chains
            self._take(range(first, first + n_chains))
            return first

    def claim(self, chain: int) -> None:
        """Take a number that the caller named.

        Raises:
            MismatchError: Another program has it.
        """
        with self._lock:
            if chain in self._taken:
                raise MismatchError(
                    f"chain {chain} of {self._place} has draws of another program. Give init_save "
                    "chain numbers that are all different, or none."
                )
            self._take(range(chain, chain + 1))

    def restore(self, n_chains: int) -> None:
        """Go on with a run of so many chains."""
        with self._lock:
            self._take(range(n_chains))

    def _take(self, chains: range) -> None:
        self._taken.update(chains)
        self.n_chains = max(self.n_chains, chains.stop)
