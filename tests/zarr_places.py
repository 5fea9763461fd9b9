"""What the tests of Zarr stores share."""

from __future__ import annotations

from pathlib import Path

SETTINGS = [
    {"compression": compression, "checksum": checksum}
    for compression in (None, "zstd", "lz4")
    for checksum in (True, False)
]


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
