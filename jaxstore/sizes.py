"""Bytes for people: as they are read, and as they are written.

Owned here: units. Those of 1024 are written; of what is read, "MB" counts by 1000 as its sign says.
"""

from __future__ import annotations

import re

_STEPS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"\s*([0-9.]+)\s*([KMGTP]?)(I?)B?\s*", re.IGNORECASE)


def size(n_bytes: float) -> str:
    """Bytes in words.

    >>> size(10), size(2048), size(3 * 2**30)
    ('10 B', '2.0 KiB', '3.0 GiB')
    """
    if n_bytes < 1024:
        return f"{n_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        n_bytes /= 1024
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1024:.1f} TiB"


def parse_size(text: int | str, *, what: str) -> int:
    """Bytes out of a number, or of text such as "2GB" or "512 MiB".

    Args:
        text: What was given.
        what: It is, for the message.

    Raises:
        ValueError: It is neither.

    >>> parse_size("1.5kB", what="memory"), parse_size("2 MiB", what="memory")
    (1500, 2097152)
    """
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number <= 0:
        raise ValueError(f"{what} is {text!r}. Give bytes above 0, or text such as '2GB'.")
    return int(number * (1024 if match[2] and match[3] else 1000) ** _STEPS[match[2].upper()])
