"""Files that are not finished yet, beside the HDF5 file that they belong to.

Owned here: their names, by which those of killed processes are found. `files` names its own alike.
"""

from __future__ import annotations

import glob
import os
import socket
import uuid
from pathlib import Path

from jaxstore.stores.holder import is_alive

_SUFFIX = ".partial"


def partial_beside(path: Path) -> Path:
    """A fresh path for what will be renamed to `path`."""
    number = uuid.uuid4().int
    return path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}-{number}{_SUFFIX}")


def remove_partials(path: Path) -> None:
    """Remove what killed processes of this machine left half-written beside a file."""
    pattern = f"{glob.escape(path.name)}.*{glob.escape(socket.gethostname())}-*{_SUFFIX}"
    for partial in path.parent.glob(pattern):
        pid = partial.name.removesuffix(_SUFFIX).split("-")[-2]
        if pid.isdigit() and not is_alive(int(pid)):
            partial.unlink(missing_ok=True)
