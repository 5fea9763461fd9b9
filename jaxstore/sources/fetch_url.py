"""A store of zarr for a URL.

Owned here: which of zarr's stores. Without options a URL is opened as everywhere in jaxstore, with
retries and time limits (`stores.blobs_service`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import obstore
import zarr.abc.store
import zarr.storage
from obstore.exceptions import BaseError as ObstoreError

from jaxstore.errors import FormatError
from jaxstore.stores.blobs_service import open_url
from jaxstore.stores.urls import is_url, local_path, redact


def zarr_store(url: str, *, read_only: bool, options: Mapping[str, Any]) -> zarr.abc.store.Store:
    """The store, see `opening.store_from_url`.

    Raises:
        FormatError: It is no such URL, or not with these options.
    """
    path = local_path(url) if is_url(url) else Path(url)
    if path is not None:
        if options:
            raise FormatError(f"{url}: a local path takes no options ({', '.join(options)}).")
        return zarr.storage.LocalStore(path, read_only=read_only)
    store = _with_options(url, options) if options else open_url(url)
    return zarr.storage.ObjectStore(store, read_only=read_only)


def _with_options(url: str, options: Mapping[str, Any]) -> Any:
    try:
        return obstore.store.from_url(url, **options)
    except (ObstoreError, ValueError, TypeError) as error:
        # Not chained: the error shows the whole URL, and may show the options.
        kind = type(error).__name__
    raise FormatError(
        f"{redact(url)} cannot be opened with the options {', '.join(sorted(options))} ({kind}). "
        "Use those that obstore.store.from_url takes for this kind of URL."
    )
