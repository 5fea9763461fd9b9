"""Who writes a store: the process that has it, for itself and for the messages to others.

Owned here: what is written down of a writer, and whether it is known to be gone.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from jaxstore.errors import FormatError
from jaxstore.stores.base import Json

_N_THREADS = 17  # in /proc/PID/stat, counted from the state of the process on


@dataclass(frozen=True, slots=True)
class Holder:
    """A writer of a store. Process numbers mean something within one `pids` only.

    >>> holder = Holder("node7", 123, "2026-01-01T00:00:00+00:00", "4fe0", "other")
    >>> str(holder)
    'process 123 on node7, since 2026-01-01T00:00:00+00:00'
    """

    host: str
    pid: int
    since: str  # ISO 8601, UTC
    nonce: str  # new for each opening
    pids: str = ""  # the boot and the namespace that `pid` belongs to, "" where nobody tells
    claim: int = 0  # how often the store was taken from a writer that did not give it back
    claims_in: str = ""  # the array that the claims lie under, "" as long as there is none
    released: bool = False  # given back: nobody writes

    @classmethod
    def of_this_process(cls) -> Holder:
        """This process, from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), now, uuid.uuid4().hex, _pids())

    @classmethod
    def from_json(cls, value: Json, *, where: str) -> Holder | None:
        """The holder that `to_json` wrote, None for None.

        Raises:
            FormatError: It is something else.
        """
        if value is None:
            return None
        kinds = {name: type(default) for name, default in asdict(_SOMEBODY).items()}
        try:
            if all(type(value[name]) is kind for name, kind in kinds.items()):
                return cls(**{name: value[name] for name in kinds})
        except (TypeError, KeyError):
            pass
        raise FormatError(
            f"{where} does not say in a way that can be read who writes it: {value!r:.200}. "
            "Open it with mode='r', or restore its root document from a copy."
        )

    def to_json(self) -> dict[str, Json]:
        """As JSON."""
        return asdict(self)

    @property
    def is_gone(self) -> bool:
        """Whether it surely writes no more: given back, or its process was here and is not."""
        return self.released or (self._is_near and not is_alive(self.pid))

    @property
    def _is_near(self) -> bool:
        return self.host == socket.gethostname() and self.pids == _pids()

    def __str__(self) -> str:
        if self._is_near and self.pid == os.getpid():
            return f"this process ({self.pid} on {self.host}), since {self.since}"
        return f"process {self.pid} on {self.host}, since {self.since}"


_SOMEBODY = Holder("", 0, "", "")


def subject(holder: Holder | None, *, unknown: str = "Another process") -> str:
    """A writer as the subject of a sentence.

    >>> f"{subject(Holder('node7', 123, '2026-01-01', ''))} writes it"
    'process 123 on node7, since 2026-01-01, writes it'
    >>> f"{subject(None)} writes it"
    'Another process writes it'
    """
    return unknown if holder is None else f"{holder},"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return not _is_ended(pid)


def _is_ended(pid: int) -> bool:
    """Whether a process has ended, and its parent has not asked yet, as some containers' never do.

    While another of its threads still ends, that one may be in a write.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return state[0] == b"Z" and int(state[_N_THREADS]) <= 1


def _pids() -> str:
    """What process numbers belong to: the same host name may be a container's, or before a boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
