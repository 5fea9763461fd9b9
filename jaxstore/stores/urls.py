"""URLs as places of stores.

Owned here: which text is a URL, and what in one is a secret that no message shows.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s\"'<>]*)")


def is_url(where: object) -> bool:
    """Whether this is text such as "s3://bucket/run.zarr"."""
    return isinstance(where, str) and _URL.match(where) is not None


def local_path(url: str) -> Path | None:
    """The path that a file:// URL means; None for any other URL.

    >>> print(local_path("file:///tmp/my%20run.zarr"))
    /tmp/my run.zarr
    """
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def redact(text: str) -> str:
    """The text with user, password and query taken out of every URL in it.

    >>> redact("s3://KEY:SEC/RET@bucket/run.zarr")
    's3://bucket/run.zarr'
    >>> redact("https://host/run.zarr?token=1 is there")
    'https://host/run.zarr is there'
    """
    return _URL.sub(lambda match: match[1] + _without_secrets(match[2]), text)


def _without_secrets(rest: str) -> str:
    """What follows "://", without credentials, query and fragment."""
    plain = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = plain.partition("/")
    if "@" in host:
        return host.rpartition("@")[2] + slash + path
    # A secret key may itself hold a slash or a question mark, so that the host ends too early.
    user, colon, port = host.partition(":")
    if not colon or port.isdigit() or user.startswith("["):
        return plain
    return rest.rpartition("@")[2].split("?")[0] if "@" in rest else "***"
