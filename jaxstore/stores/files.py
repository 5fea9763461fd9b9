"""Files that are replaced whole: written beside, then renamed.

Owned here: what a killed process leaves behind, and how it is told from what a live one writes;
what has to reach the disk so that a file outlives a power loss.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import os
import re
import socket
from collections.abc import Buffer, Iterable, Iterator, Sequence
from pathlib import Path

from jaxstore.errors import MissingError
from jaxstore.stores.holder import is_alive

_SUFFIX = ".partial"  # as zarr's LocalStore names its own
_MOST_BYTES = 1 << 30  # in one call; Linux takes 2 GiB at most, macOS refuses as much
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
# From anywhere: in a container each process may have the number of the one that was killed.
_count = itertools.count(int.from_bytes(os.urandom(6)))


def put_file(path: str, parts: Sequence[Buffer], *, durable: bool = False) -> None:
    """Write the parts as one file; readers see the file before or the one after.

    On failure the file is as it was, and the error is the one of the system.

    Args:
        path: In a folder that is there.
        parts: One after the other.
        durable: Whether the bytes are on the disk before the file has its name. The name itself
            is there for good only after `sync_folder`.
    """
    with _written_beside(path, parts, durable=durable) as beside:
        os.replace(beside, path)


def put_new_file(path: str, parts: Sequence[Buffer], *, durable: bool = False) -> bool:
    """As `put_file` where there is no such file; whether it was put."""
    if os.path.lexists(path):
        return False
    with _written_beside(path, parts, durable=durable) as beside:
        try:
            os.link(beside, path)  # which, unlike a rename, replaces nothing
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: a kill can leave an empty file
            try:
                os.close(os.open(path, _NEW, 0o666))
            except FileExistsError:
                return False
            os.replace(beside, path)
    return True


def partial_beside(path: str) -> str:
    """A fresh name for what will be renamed to this one."""
    return f"{path}.{socket.gethostname()}-{os.getpid()}-{next(_count)}{_SUFFIX}"


def is_partial(path: str) -> bool:
    """Whether this is a file that was never finished."""
    return path.endswith(_SUFFIX)


def remove_partials(path: Path) -> None:
    """Remove what killed processes of this machine left half-written beside a file."""
    _remove_dead(path.parent.glob(f"{glob.escape(path.name)}.*{_SUFFIX}"))


def remove_leftovers(root: Path) -> None:
    """The same at any depth below a folder."""
    _remove_dead(root.rglob(f"*{_SUFFIX}"))


@contextlib.contextmanager
def _written_beside(path: str, parts: Sequence[Buffer], *, durable: bool) -> Iterator[str]:
    """A file beside a path with these bytes in it, which is gone in the end."""
    beside = partial_beside(path)
    is_moved = False
    try:
        file = os.open(beside, _NEW, 0o666)
        try:
            _write_all(file, [memoryview(part).cast("B") for part in parts])
            if durable:
                os.fsync(file)
        finally:
            os.close(file)
        yield beside
        is_moved = not os.path.lexists(beside)
    except OSError as error:
        if error.filename is None:
            error.filename = path  # writing to a descriptor, the system does not know it
        raise
    finally:
        if not is_moved:
            with contextlib.suppress(OSError):
                os.unlink(beside)


def sync_folder(path: str) -> None:
    """Wait until the names in a folder are on the disk; Windows has no way to ask for it."""
    if os.name == "nt":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_folders(root: str, folder: str) -> list[str]:
    """Make a folder and those above it, below a root that must be there.

    Args:
        root: Is never made: who removed it did not mean it to come back.
        folder: Relative to the root, "" for itself.

    Returns:
        The folders that have a new name in them.

    Raises:
        MissingError: The root is gone.
    """
    changed = []
    if not os.path.isdir(root):
        raise vanished(root)
    above = root
    for part in folder.split("/") if folder else []:
        path = os.path.join(above, part)
        try:
            os.mkdir(path)
            changed.append(above)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise vanished(root) from None
        above = path
    return changed


def vanished(root: str) -> MissingError:
    """The error for a root folder that is gone, or is another one now."""
    error = MissingError(
        f"{root}: the folder was removed or replaced while it was written to, and it is not made "
        "again. Move it back, or write to a new place."
    )
    error.errno, error.filename = errno.ENOENT, root
    return error


def _remove_dead(partials: Iterable[Path]) -> None:
    # The dot before the name: another machine's may end in this one's, and its processes may live.
    mine = re.compile(rf".*\.{re.escape(socket.gethostname())}-(\d+)-\d+{_SUFFIX}", re.DOTALL)
    for path in partials:
        found = mine.fullmatch(path.name)
        if found and not is_alive(int(found[1])):
            path.unlink(missing_ok=True)


def _write_all(file: int, parts: list[memoryview]) -> None:
    """Write every byte of the parts without joining them."""
    left = [part[i : i + _MOST_BYTES] for part in parts for i in range(0, len(part), _MOST_BYTES)]
    while left:
        some = left[:2]  # a piece and its checksum; more than 2 pieces may pass the limit
        n_written = os.writev(file, some) if hasattr(os, "writev") else os.write(file, some[0])
        while left and n_written >= len(left[0]):
            n_written -= len(left.pop(0))
        if n_written:
            left[0] = left[0][n_written:]
