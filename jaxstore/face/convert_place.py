"""Where a conversion is written: beside its target until it is whole.

Owned here: that nothing is overwritten, and that a kill leaves nothing that looks complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxstore.errors import ExistsError
from jaxstore.stores.hdf5_record import refuse_orphan
from jaxstore.stores.urls import is_url, local_path

SUFFIX = ".converting"


@contextmanager
def staged(target: str) -> Iterator[str]:
    """A place to write to, which becomes the target when the block ends well.

    Files and folders are made in a folder beside the target, which is removed if the block fails.
    Under a URL, where nothing can be renamed, the place is the target itself.

    Raises:
        ExistsError: The target is there; or an earlier conversion to it was killed.
    """
    path = local_path(target) if is_url(target) else Path(target)
    if path is None:
        yield target
        return
    check_free(path)
    work = path.with_name(path.name + SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        work.mkdir()
    except FileExistsError:
        raise ExistsError(
            f"{work} is there: a conversion to {path} goes on, or was killed. If none goes on, "
            "remove it, and convert again."
        ) from None
    try:
        yield str(work / path.name)
        check_free(path)
        for made in sorted(work.iterdir(), key=lambda made: made.name == path.name):
            move(made, path.with_name(made.name))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_free(path: Path) -> None:
    """Refuse to overwrite anything.

    Raises:
        ExistsError: Something is there, or what belongs to a file that is gone.
    """
    if os.path.lexists(path):
        raise ExistsError(
            f"{path} is already there and will not be overwritten. Choose another target, or "
            "remove it."
        )
    refuse_orphan(path)


def move(made: Path, to: Path) -> None:
    """Give a file or a folder its name, which nobody has.

    Raises:
        ExistsError: Someone took it meanwhile.
    """
    if not made.is_dir():
        # A rename would replace a file that is there; only one can make it.
        try:
            to.open("xb").close()
        except FileExistsError:
            raise ExistsError(f"{to} was made by someone else meanwhile, and stays.") from None
    os.replace(made, to)
