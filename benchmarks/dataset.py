"""Data sets that stay between runs: each is written once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 16 * 2**20


def default_folder() -> Path:
    """Where they stay."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "jaxstore-benchmarks"


def keep(path: Path, write: Callable[[Path], None]) -> Path:
    """A store, written if it is not there yet, and read once: the page cache holds it then."""
    if not path.exists():
        print(f"  writing {path}", flush=True)
        # Renamed when complete: a data set that was cut off must not be taken for one.
        with tempfile.TemporaryDirectory(dir=path.parent) as name:
            write(Path(name) / path.name)
            shutil.move(Path(name) / path.name, path)
    for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if part.is_file():
            with part.open("rb", buffering=0) as file:
                while file.read(BLOCK_BYTES):
                    pass
    return path


def remove(path: Path) -> None:
    """A store, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
