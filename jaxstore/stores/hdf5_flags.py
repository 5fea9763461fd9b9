"""The flag by which HDF5 marks a file as open, taken out of what is written of it.

Owned here: how a superblock begins, and that of version 3, which files with `libver="latest"`
have. HDF5 refuses to open a file with that flag, so a kill would lock everybody out of a file that
is sound.

The checksum is Bob Jenkins' lookup3 (2006), https://burtleburtle.net/bob/c/lookup3.c
"""

from __future__ import annotations

import struct

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # at the start of a file, or behind its user block
_FLAGS = 11  # their offset
_MASK = 0xFFFFFFFF


def without_flags(data: bytes) -> bytes:
    """The bytes of a superblock, of any version, as those of a file that nobody has open."""
    if data[:8] != SIGNATURE or data[8] != 3 or not data[_FLAGS]:
        return data
    n = 12 + 4 * data[9]  # four offsets follow; then the checksum
    clean = data[:_FLAGS] + b"\0" + data[_FLAGS + 1 : n]
    return clean + struct.pack("<I", lookup3(clean)) + data[n + 4 :]


def lookup3(data: bytes) -> int:
    """The checksum of HDF5's metadata.

    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    while len(data) > 12:
        x, y, z = struct.unpack("<III", data[:12])
        a, b, c = _mix((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)
        data = data[12:]
    if not data:
        return c
    x, y, z = struct.unpack("<III", data.ljust(12, b"\0"))
    return _final((a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (4, 6, 8, 16, 19, 4):
        a = (a - c) & _MASK ^ _rotated(c, turn)
        c = (c + b) & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, turn)) & _MASK
        a, b, c = b, c, a
    return b


def _rotated(x: int, turn: int) -> int:
    return (x << turn | x >> (32 - turn)) & _MASK
