"""Who am I among how many: a JAX process, an MPI rank, or alone; and what only the first does.

Owned here: rank and size, and a step that the root takes while all others wait for its outcome.
mpi4py is imported here, and only in a process that an MPI launcher started.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxstore import errors
from jaxstore.errors import JaxstoreError, MismatchError

# Set by mpiexec of Open MPI, of MPICH and Intel MPI (and by srun's PMI), and of MVAPICH.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK")
_OUTCOME_BYTES = 16_384  # JAX broadcasts arrays of one shape; a longer message is cut


@dataclass(frozen=True, slots=True)
class Place:
    """This process among its peers."""

    rank: int
    size: int
    kind: Literal["jax", "mpi", "alone"]  # who numbered them

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must be in [0, {self.size}), got {self.rank}")

    @property
    def is_root(self) -> bool:
        """Whether this is the process that creates what all share."""
        return self.rank == 0


def place() -> Place:
    """Where this process stands, by `jax.distributed` if it is up, else by MPI if launched so.

    Raises:
        MismatchError: The launcher started several ranks which cannot see one another.
        ImportError: The launcher started several ranks, and mpi4py does not work here.

    >>> place()
    Place(rank=0, size=1, kind='alone')
    """
    jax = sys.modules.get("jax")  # who did not import JAX did not initialise it either
    if jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1:
        return Place(jax.process_index(), jax.process_count(), "jax")
    if not is_launched():
        return Place(0, 1, "alone")
    expected = launched_size()
    if expected == 1:
        return Place(0, 1, "mpi")  # nobody to talk to, so no need of mpi4py
    comm = _world(expected)
    return Place(comm.Get_rank(), comm.Get_size(), "mpi")


def is_launched() -> bool:
    """Whether an MPI launcher started this process, by the environment alone."""
    return any(name in os.environ for name in (*_SIZES, *_RANKS))


def launched_size() -> int | None:
    """How many ranks the MPI launcher says it started; None where it does not say."""
    found = [os.environ[name] for name in _SIZES if name in os.environ]
    return int(found[0]) if found and found[0].isdigit() else None


def root_only(action: Callable[[], object]) -> None:
    """Run `action` on rank 0 while all others wait; its failure is an error on every rank.

    All processes must call this, with actions that mean the same.

    Raises:
        BaseException: On rank 0, whatever `action` raised.
        JaxstoreError: On the others, the same class of `jaxstore.errors` if it was one.
        OSError: On the others, with the same errno, if it was one.
    """
    where = place()
    if where.size == 1:
        action()
        return
    failure: BaseException | None = None
    if where.is_root:
        try:
            action()
        except BaseException as error:  # Ctrl-C too: the others wait for the outcome
            failure = error
    outcome = json.loads(_broadcast(json.dumps(_describe(failure)), where))
    if failure is not None:
        raise failure
    if outcome is not None:
        raise _echo(outcome, where)


def _world(expected: int | None) -> Any:
    """All ranks, after making sure that they are those which the launcher started."""
    try:
        with warnings.catch_warnings():  # mpi4py warns of a mismatch, which is an error below
            warnings.simplefilter("ignore", RuntimeWarning)
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"an MPI launcher started this process among {expected or 'several'} ranks, and "
            f"mpi4py does not work here: {error}. Install it with an MPI library: "
            "pip install 'jaxstore[mpi]' mpich."
        ) from error
    comm = MPI.COMM_WORLD
    if expected is not None and comm.Get_size() != expected:
        library = MPI.Get_library_version().splitlines()[0].strip("\0 ")
        raise MismatchError(
            f"the MPI launcher started {expected} ranks, but mpi4py sees {comm.Get_size()}: the "
            f"launcher belongs to another MPI than the library of mpi4py, which is {library}. "
            f"Start with the mpiexec of that library; that of PyPI's mpich is "
            f"{os.path.join(sys.prefix, 'bin', 'mpiexec')}."
        )
    return comm


def _broadcast(text: str, where: Place) -> str:
    """The text of rank 0, on every rank, once rank 0 is here."""
    if where.kind == "mpi":
        return str(_world(where.size).bcast(text, root=0))
    from jax.experimental import multihost_utils

    bits = np.zeros(_OUTCOME_BYTES, np.uint8)
    data = text.encode()
    bits[: len(data)] = np.frombuffer(data, np.uint8)
    found = multihost_utils.broadcast_one_to_all(bits)
    return bytes(np.asarray(found, np.uint8)).rstrip(b"\0").decode()


def _describe(failure: BaseException | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    kind = type(failure).__name__
    number = failure.errno if isinstance(failure, OSError) else None
    text = str(failure)
    # In JSON a character takes at most 12 bytes.
    return {"kind": kind, "errno": number, "text": text[: _OUTCOME_BYTES // 12 - 32]}


def _echo(outcome: dict[str, Any], where: Place) -> Exception:
    kind, number = outcome["kind"], outcome["errno"]
    text = f"rank 0 failed, so rank {where.rank} of {where.size} stops: {kind}: {outcome['text']}"
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, JaxstoreError):
        return found(text)
    return JaxstoreError(text) if number is None else OSError(number, text)
