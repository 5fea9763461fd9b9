"""A kernel compiled for one batch size, on the default device of JAX.

Owned here: compiling ahead of time, what the compiled program takes of memory, and its call. Which
size fits is `memory`'s, what is done with the outputs `job`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxstore.processing.batches import gathered
from jaxstore.processing.kernel import Kernel, Structs, n_bytes_of

Array = np.ndarray[Any, Any]
_UNKNOWN_FACTOR = 3  # of arguments and outputs, where a backend does not tell what it takes


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A compiled kernel; several threads may call it at a time."""

    batch_size: int
    n_bytes: int  # while it runs: arguments, outputs, temporaries; see memory_of
    run: Callable[..., Any]  # of whole batches

    def __call__(self, items: PyTree[Array]) -> PyTree[Array]:
        """The outputs of any number of items, each leaf with the items on axis 0.

        An item has the same bits whichever others are with it. On the CPU an array that is aligned
        (see `aligned`) is used in place, so the caller changes nothing until this returns; then
        nothing of the outputs shares memory with it. Outputs may be read-only.
        """
        return gathered(self.run, items, self.batch_size)


def compile_program(kernel: Kernel, batch_size: int) -> Program:
    """Compile a kernel for batches of one size."""
    compiled, n_bytes = compile_for(lambda items: kernel.over(items), kernel.batch(batch_size))
    return Program(batch_size, n_bytes, compiled)


def compile_for(function: Callable[..., Any], *structs: Structs) -> tuple[Callable[..., Any], int]:
    """A function compiled for arguments of given shapes, and the bytes it takes while it runs.

    Args:
        function: One that was never traced, for JAX remembers traces by function.
        structs: Of each argument.
    """
    lowered = jax.jit(function).lower(*structs)
    compiled = lowered.compile()
    return compiled, memory_of(compiled, n_bytes_of(structs), n_bytes_of(lowered.out_info))


def memory_of(compiled: Any, argument_bytes: int, output_bytes: int) -> int:
    """Bytes a compiled program takes while it runs again and again, by its own account.

    Temporaries count twice: those of one run are returned after its outputs are there, while the
    next already runs (measured on the CPU: 0.1 to 0.7 of them overlap). The field that is called
    peak leaves them out. Arguments that are never used do not count there, yet the host has them.
    A backend may know nothing, and then it tells zeros.
    """
    try:
        stats = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        stats = None
    if stats is None:
        return _UNKNOWN_FACTOR * (argument_bytes + output_bytes)
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    if not held + stats.temp_size_in_bytes:
        return _UNKNOWN_FACTOR * (argument_bytes + output_bytes)
    unused = max(0, argument_bytes - stats.argument_size_in_bytes)
    return int(held + unused + 2 * stats.temp_size_in_bytes)
