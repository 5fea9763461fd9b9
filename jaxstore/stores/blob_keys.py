"""Keys of the bytes that a store keeps beside an array.

Owned here: which keys there may be, the same for every format.
"""

from __future__ import annotations

import re

# With a hyphen in it no key is a chunk of Zarr ("c", "0"), nor what a file's name may end in.
_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
_CLAIM = "claim-"  # by which writers of object stores tell one another apart


def is_key(part: str) -> bool:
    """Whether the last part of a key is that of a blob, or of a claim; no chunk's ever is."""
    return _KEY.fullmatch(part) is not None


def check_key(key: str) -> None:
    """Refuse what is no key of a blob.

    >>> check_key("checkpoint-0")
    >>> check_key("../x")
    Traceback (most recent call last):
    ...
    ValueError: '../x' is no key of a blob. Take lower case, digits and hyphens: "checkpoint-0".
    """
    if not is_key(key) or key.startswith(_CLAIM):
        raise ValueError(
            f'{key!r} is no key of a blob. Take lower case, digits and hyphens: "checkpoint-0".'
        )
