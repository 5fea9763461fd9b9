"""Files that HDF5 can neither write nor close, since a disk was full.

Owned here: keeping them from harm until the process ends. HDF5 takes a file for one that it has
open by the number of its inode, and would go on with the broken one, whose writes lead nowhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py

# The file as h5py has it, so that nothing tries to close it once more; and a descriptor, so that no
# new file gets the same number.
_stuck: dict[tuple[int, int], tuple[h5py.File, int]] = {}


def keep_stuck(file: h5py.File, path: Path) -> None:
    """Keep a file that HDF5 failed to close."""
    try:
        pin = os.open(path, os.O_RDONLY)
    except OSError:  # it has no name any more
        pin = -1
    found = os.fstat(pin) if pin >= 0 else None
    key = (found.st_dev, found.st_ino) if found else (-1, len(_stuck))
    _stuck[key] = (file, pin)


def is_stuck(path: Path) -> bool:
    """Whether HDF5 has this very file open and cannot let go of it."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) in _stuck
