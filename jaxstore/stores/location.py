"""From a path, a URL or an open handle to a store.

Owned here: which format a place has. The formats are imported when they are needed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxstore.errors import FormatError, MissingError
from jaxstore.stores.base import Store
from jaxstore.stores.hdf5_flags import SIGNATURE
from jaxstore.stores.icechunk_branch import branch_of
from jaxstore.stores.urls import is_url, local_path, redact

HDF5_SUFFIXES = {".h5", ".hdf5", ".he5"}
_MOST_SIGNATURE_BYTES = 1 << 20  # HDF5 lets a user block of 512, 1024, 2048, ... bytes go before


def create_store(
    where: Any,
    *,
    compression: str | None = "zstd",
    checksum: bool = True,
    durable: bool = False,
) -> Store:
    """Make an empty store: HDF5 for a path ending in .h5, .hdf5 or .he5, else Zarr.

    Args:
        where: A path, a URL, a handle of h5py, zarr or obstore, or a store, which is returned.
        compression: "zstd", "lz4" or None.
        checksum: Whether each chunk carries a checksum.
        durable: Whether commits wait until files outlive a power loss.

    Raises:
        ExistsError: Something is there, which stays as it is.
    """
    if isinstance(where, Store):
        return where
    place = _place(where)
    settings: dict[str, Any] = {
        "compression": compression,
        "checksum": checksum,
        "durable": durable,
    }
    if _is_of(place, "h5py"):
        from jaxstore.stores.hdf5 import HDF5Store

        return HDF5Store.adopt(place, **settings)
    if isinstance(place, Path) and place.suffix.lower() in HDF5_SUFFIXES:
        from jaxstore.stores.hdf5 import HDF5Store

        return HDF5Store.new(place, **settings)
    from jaxstore.stores.zarr3 import ZarrStore

    return ZarrStore.new(place, **settings)


def open_store(where: Any, *, mode: str = "r", durable: bool = False) -> Store:
    """Open a store; what lies at a path decides on its format, not how the path ends.

    Args:
        where: A path, a URL, a handle of h5py, zarr or obstore, or a store, which is returned.
        mode: "r" to read, "r+" to write; a handle of h5py has its own.
        durable: As for `create_store`.

    Raises:
        MissingError: Nothing is there.
        FormatError: It is neither HDF5 nor a Zarr v3 group.
    """
    if isinstance(where, Store):
        return where
    place = _place(where)
    if _is_of(place, "h5py"):
        from jaxstore.stores.hdf5 import HDF5Store

        return HDF5Store.adopt(place, durable=durable)
    if isinstance(place, Path) and _is_hdf5(place):
        from jaxstore.stores.hdf5 import HDF5Store

        return HDF5Store.open(place, mode=mode, durable=durable)
    from jaxstore.stores.zarr3 import ZarrStore

    return ZarrStore.open(place, mode=mode, durable=durable)


def takes_hdf5(where: Any) -> bool:
    """Whether what lies at a place is HDF5, or would be if it were made there.

    Raises:
        FormatError: A file of another kind is there, or it is a URL of HDF5 that is not local.
        TypeError: It is no place.
    """
    place = _place(where)
    if not isinstance(place, Path):
        return _is_of(place, "h5py")
    return _is_hdf5(place) if place.exists() else place.suffix.lower() in HDF5_SUFFIXES


def _place(where: Any) -> Any:
    """A path as `Path`, every other place as it is.

    Raises:
        FormatError: It is a URL of an HDF5 file, which has to be local.
        TypeError: It is no place.
    """
    if is_url(where):
        path = local_path(where)
        if path is None and Path(redact(where)).suffix.lower() in HDF5_SUFFIXES:
            raise FormatError(
                f"{redact(where)}: HDF5 needs a local path. Copy the file, or use Zarr."
            )
        return path or where
    if isinstance(where, (str, os.PathLike)):
        return Path(where)
    if any(_is_of(where, library) for library in ("h5py", "zarr", "obstore")):
        return where
    if branch := branch_of(where):
        return branch
    raise TypeError(
        f"{type(where).__name__} is no place for a store. "
        "Give a path, a URL, or a handle of h5py, zarr, obstore or icechunk."
    )


def _is_of(handle: object, library: str) -> bool:
    """Whether a handle, or a type it extends, comes from a library, which is not imported."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(handle).__mro__)


def _is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does; False for a directory.

    Raises:
        MissingError: Nothing is there.
        FormatError: It is a file of another kind.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise MissingError(f"{path}: nothing is there. Correct the path.") from None
    except OSError:
        if path.is_dir():  # asked now, since a writer may have made it meanwhile
            return False
        raise
    with file:
        offset = 0
        while offset <= _MOST_SIGNATURE_BYTES:
            file.seek(offset)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            offset = max(512, 2 * offset)
    raise FormatError(f"{path} is neither an HDF5 file nor a Zarr folder. Correct the path.")
