"""Who am I among how many: a JAX process, an MPI rank, or alone; and what all do as one.

Owned here: rank, size and cores, and a step that ends on all ranks together, with what the root
found or with an error if any of them failed. mpi4py is imported here, and only in a process that an
MPI launcher started.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from jaxstore import errors
from jaxstore.errors import JaxstoreError, MismatchError

# Set by mpiexec of Open MPI, of MPICH and Intel MPI (and by srun's PMI), and of MVAPICH.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "PMIX_RANK")
_FAILED = 1  # tag of the message by which a rank tells that it failed
_POLL_S = 0.005  # MPI itself would poll without a pause, and take a core from ranks that work

Json = Any  # whatever `json.dumps` takes
Watch = Callable[[], None]


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
    expected = _launched_size()
    if expected == 1:
        return Place(0, 1, "mpi")  # nobody to talk to, so no need of mpi4py
    comm = _world(expected)
    return Place(comm.Get_rank(), comm.Get_size(), "mpi")


def is_launched() -> bool:
    """Whether an MPI launcher started this process, by the environment alone."""
    return any(name in os.environ for name in (*_SIZES, *_RANKS))


def n_processors() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Stopped(Exception):
    """Another rank failed, so that there is no use in going on; `together` tells why."""


def root_only(action: Callable[[], object]) -> None:
    """Run `action` on rank 0 while all others wait; its failure is an error on every rank.

    As for `from_root`, of actions that give nothing.
    """

    def done() -> None:
        action()

    from_root(done)


def from_root(action: Callable[[], Json]) -> Json:
    """What `action` gives on rank 0, on every rank; the others wait meanwhile.

    All processes must call this, with actions that mean the same.

    Raises:
        BaseException: As for `together`.
    """
    is_root = place().is_root
    return together(lambda _: action() if is_root else None)[0]


def together(action: Callable[[Watch], Json]) -> list[Json]:
    """What `action` gives on each rank, on every rank, when all are through with it.

    All processes must call this, and all come back; if one fails, each raises.

    Args:
        action: Gets a function that costs next to nothing, to be called now and then: it raises
            `Stopped` once another rank failed. Ranks of `jax.distributed` learn that at the end.

    Raises:
        BaseException: What `action` raised here.
        JaxstoreError: Another rank failed: the same class of `jaxstore.errors` if it was one.
        OSError: Likewise, with the same errno, if it was one.
    """
    where = place()
    if where.size == 1:
        return [action(lambda: None)]
    peers = _ranks(where.size) if where.kind == "mpi" else _Processes()
    given: Json = None
    failure: BaseException | None = None
    try:
        given = action(peers.watch)
    except Stopped:
        pass
    except BaseException as error:  # Ctrl-C too: the others wait for the outcome
        failure = error
    failure = peers.meet(failure)
    told = peers.exchange(json.dumps({"given": given, "failure": _describe(failure)}))
    outcomes = [json.loads(text) for text in told]
    failures = {rank: o["failure"] for rank, o in enumerate(outcomes) if o["failure"] is not None}
    peers.part(set(failures))
    if failure is not None:
        raise failure
    for rank, described in failures.items():
        raise _echo(described, rank, where)
    return [outcome["given"] for outcome in outcomes]


class _Ranks:
    """The ranks of MPI, on a communicator of their own."""

    def __init__(self, world: Any) -> None:
        self._comm = world.Dup()  # messages of the user's program are not mixed with these
        self._is_told = False

    def watch(self) -> None:
        if self._comm.iprobe(tag=_FAILED):
            raise Stopped

    def meet(self, failure: BaseException | None) -> BaseException | None:
        """Wait for all; what failed here, which a Ctrl-C may while it waits."""
        if failure is not None:
            self._tell()
        arrived = self._comm.Ibarrier()
        while True:
            try:
                if arrived.Test():
                    return failure
                time.sleep(_POLL_S)
            except (KeyboardInterrupt, SystemExit) as error:  # without this one, all would hang
                failure = failure or error
                self._tell()

    def exchange(self, text: str) -> list[str]:
        return list(self._comm.allgather(text))

    def part(self, failed: set[int]) -> None:
        """Take the messages of all that failed, so that none is left for the next time."""
        for rank in failed - {self._comm.Get_rank()}:
            self._comm.recv(source=rank, tag=_FAILED)
        self._is_told = False

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            for rank in set(range(self._comm.Get_size())) - {self._comm.Get_rank()}:
                # So small that it is sent off at once, whether or not somebody looks.
                self._comm.send(None, dest=rank, tag=_FAILED)


class _Processes:
    """The processes of `jax.distributed`, which have collectives only."""

    def watch(self) -> None:
        pass

    def meet(self, failure: BaseException | None) -> BaseException | None:
        return failure

    def exchange(self, text: str) -> list[str]:
        from jax.experimental import multihost_utils

        data = np.frombuffer(text.encode(), np.uint8)
        sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).reshape(-1)
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: len(data)] = data
        rows = np.asarray(multihost_utils.process_allgather(padded))
        return [bytes(row[:n]).decode() for row, n in zip(rows, sizes, strict=True)]

    def part(self, failed: set[int]) -> None:
        pass


@cache
def _ranks(size: int) -> _Ranks:
    return _Ranks(_world(size))


def _launched_size() -> int | None:
    """How many ranks the MPI launcher says it started; None where it does not say."""
    found = [os.environ[name] for name in _SIZES if name in os.environ]
    return int(found[0]) if found and found[0].isdigit() else None


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


def _describe(failure: BaseException | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    number = failure.errno if isinstance(failure, OSError) else None
    text = "\n".join([str(failure), *getattr(failure, "__notes__", ())])
    return {"kind": type(failure).__name__, "errno": number, "text": text}


def _echo(described: dict[str, Any], rank: int, where: Place) -> Exception:
    kind, number = described["kind"], described["errno"]
    who = f"rank {rank} failed, so rank {where.rank} of {where.size} stops"
    text = f"{who}: {kind}: {described['text']}"
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, JaxstoreError):
        return found(text)
    return JaxstoreError(text) if number is None else OSError(number, text)
