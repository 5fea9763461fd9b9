"""JSON out of a store, which anyone may have written: parsed strictly, or refused.

Owned here: what a manifest may say at most, and the checksum by which damage to it is noticed.
What its entries mean is told by `layout` and `snapshot_stream`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import google_crc32c
import jax
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.names import keys_from_json
from jaxstore.stores.base import Json
from jaxstore.stores.dtypes import parse_dtype, stored_dtype

CHECKSUM = "crc32c"  # key of a manifest
MOST_DEPTH = 100  # of nested JSON; Python's own functions on such values end near 1000
MOST_KEYS = 200  # from the root of a sample to a leaf
MOST_TEXT = 4096  # characters of a name
MOST_ELEMENTS = 2**48  # of one draw
MOST_AXES = 60  # NumPy ends at 64, and chain and draw come first


def sealed(manifest: Mapping[str, Json]) -> dict[str, Json]:
    """A manifest as JSON gives it back, with its checksum."""
    plain = json.loads(json.dumps(dict(manifest)))
    return {**plain, CHECKSUM: checksum_of(plain)}


def checksum_of(manifest: Mapping[str, Json]) -> str:
    """The crc32c of all entries but itself, over their JSON with sorted keys."""
    entries = {key: value for key, value in manifest.items() if key != CHECKSUM}
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return f"{google_crc32c.value(text.encode()):08x}"


def check_manifest(manifest: Json, *, kind: str, version: int, location: str) -> dict[str, Json]:
    """The manifest of a kind, whole and of a format that is known.

    Raises:
        FormatError: It is of another kind, damaged, or newer.
    """
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        raise FormatError(
            f"{location} is not a jaxstore {kind}: it has no such manifest. Open a run with "
            "jaxstore.open_run, a storage with jaxstore.open_storage, and anything else with "
            "xarray, zarr or h5py."
        )
    check_depth(manifest, what=f"the manifest of {location}")
    found = manifest.get("format_version")
    if found is None or not is_count(found):
        raise FormatError(damaged(location, f"its format_version is {brief(found)}"))
    if found > version:
        raise FormatError(
            f"{location} has {kind} format {found}, this jaxstore reads up to {version}. "
            "Update jaxstore."
        )
    # Manifests that were written before there was a checksum have none.
    if CHECKSUM in manifest and manifest[CHECKSUM] != checksum_of(manifest):
        raise FormatError(damaged(location, "its checksum differs"))
    is_dated = isinstance(manifest.get("created_at"), str)
    if not is_dated or not isinstance(manifest.get("versions"), dict):
        raise FormatError(damaged(location, "created_at or versions are not there"))
    return manifest


def damaged(location: str, reason: str) -> str:
    """What an error about a damaged manifest says."""
    return (
        f"The manifest of {location} was damaged, or changed by another program ({reason}). "
        "Restore it from a copy; the arrays can still be read with zarr or h5py."
    )


def check_depth(value: Json, *, what: str) -> None:
    """Refuse JSON that is nested too deep for Python's own functions.

    Raises:
        FormatError: It is.
    """
    level: list[Any] = [[value]]
    for _ in range(MOST_DEPTH + 1):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
        if not level:
            return
        level = [v for v in level if v]
    raise FormatError(f"{what} is nested deeper than {MOST_DEPTH} levels; jaxstore writes no such.")


def leaf_fields(record: Json) -> dict[str, Any]:
    """The fields of a `LeafLayout` out of a manifest.

    Raises:
        FormatError: They are none that jaxstore writes.
    """
    try:
        keys, dims, impl = record["keys"], record["dims"], record["key_impl"]
        name, shape, dtype = record["name"], record["shape"], parse_text(record["dtype"])
    except (KeyError, TypeError):
        raise FormatError(f"the manifest has a leaf without name or shape: {brief(record)}") from (
            None
        )
    fields: dict[str, Any] = {
        "keys": parse_keys(keys),
        "name": parse_path(name),
        "shape": parse_shape(shape),
        "dtype": parse_dtype(dtype),
        "dims": tuple(parse_dim(dim) for dim in parse_list(dims)),
        "key_impl": None if impl is None else parse_text(impl),
    }
    if len(fields["dims"]) != len(fields["shape"]) or "/" not in fields["name"]:
        raise FormatError(f"the manifest has {brief(name)} without a group or a name per axis")
    if fields["key_impl"]:
        check_key_impl(fields["key_impl"], fields["shape"], fields["dtype"], name=name)
    return fields


def parse_list(value: Json) -> list[Json]:
    """A list."""
    if not isinstance(value, list):
        raise FormatError(f"the manifest has {brief(value)} in place of a list")
    return value


def parse_text(value: Json) -> str:
    """A text that is not absurdly long."""
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise FormatError(f"the manifest has {brief(value)} in place of a name")
    return value


def parse_path(value: Json) -> str:
    """Plain parts joined by "/", none of which leads out of the store."""
    parts = parse_text(value).split("/")
    if any(part in ("", ".", "..", "zarr.json") for part in parts) or not value.isprintable():
        raise FormatError(f"the manifest has {brief(value)} in place of a name inside the store")
    if "\\" in value or ":" in value or max(map(len, parts)) > 255:
        raise FormatError(f"the manifest has {brief(value)} in place of a name inside the store")
    return value


def parse_dim(value: Json) -> str:
    """A name of a dimension; with its group before it, it leads nowhere else."""
    if any(part in ("", ".", "..") for part in parse_text(value).replace("\\", "/").split("/")):
        raise FormatError(f"{brief(value)} cannot name a dimension. Use letters and digits.")
    return value


def parse_keys(value: Json) -> tuple[Any, ...]:
    """The keys that lead to a leaf in its pytree."""
    keys = parse_list(value)
    if len(keys) > MOST_KEYS:
        raise FormatError(f"the manifest has a leaf below {len(keys)} keys; {MOST_KEYS} at most")
    return keys_from_json(keys)


def parse_shape(value: Json) -> tuple[int, ...]:
    """The shape of one draw, which fits an address space."""
    shape = parse_list(value)
    if len(shape) > MOST_AXES or not all(is_count(n) for n in shape):
        raise FormatError(f"the manifest has {brief(value)} in place of a shape")
    # Beside an axis of length 0 the others are bounded too: NumPy multiplies them all.
    if math.prod(max(1, n) for n in shape) > MOST_ELEMENTS:
        raise FormatError(f"the manifest has the shape {brief(value)}; no draw is so large")
    return tuple(shape)


def check_key_impl(impl: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, name: str) -> None:
    """Refuse key data that are none of this implementation.

    Raises:
        FormatError: JAX knows no such implementation, or its keys look otherwise.
    """
    try:
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
    except ValueError:
        raise FormatError(
            f"{name!r} holds keys of {brief(impl)}, which JAX does not know here. Register that "
            "implementation first, as the program did that made the run."
        ) from None
    if shape[len(shape) - data.ndim :] != data.shape or stored_dtype(dtype) != data.dtype:
        raise FormatError(f"{name!r} has {dtype}{list(shape)} in place of keys of {impl}")


def is_count(value: Json) -> bool:
    """Whether a value is a whole number that is not absurd."""
    return type(value) is int and 0 <= value <= MOST_ELEMENTS


def brief(value: Json) -> str:
    """A value for a message, however large or deep it is."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "...")
    if isinstance(value, bool | float | int | None):
        return repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "a huge number"
    return f"a {type(value).__name__} of {len(value)}"
