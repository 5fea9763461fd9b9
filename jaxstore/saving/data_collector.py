"""The interface of collectors.

Owned here: what a collector of the user's must have. Those that come with jaxstore take whole
blocks; see `collectors`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import PyTree

from jaxstore.saving.static import StaticInformation


@runtime_checkable
class DataCollector(Protocol):
    """What a collector of your own must have; it gets one draw of one chain at a time.

    `save` and `register_chain` of further chains come from one thread that jaxstore starts, in
    the order of the draws of each chain. An exception stops the program and reaches the caller as
    itself. The interface is that of `jax_sgmc.io.DataCollector` (Thaler et al., 2024).
    """

    def register_chain(
        self,
        init_sample: PyTree = None,
        init_checkpoint: PyTree = None,
        static_information: StaticInformation | None = None,
    ) -> int:
        """Prepare for a new chain whose samples look like `init_sample`; returns its id."""
        ...

    def save(self, chain_id: int, values: list[np.ndarray[Any, Any]]) -> None:
        """Take one draw: the leaves of the sample in the order of `jax.tree.leaves`."""
        ...

    def finalize(self, chain_id: int) -> None:
        """All draws of this chain were given to `save`."""
        ...

    def finished(self, chain_id: int) -> Any:
        """Called last, by `postprocess_save`; returns what shall be its "samples"."""
        ...
