"""The parameters of a computation as JSON, so that two are equal exactly if their JSON is.

Owned here: how each kind of value is written, and read again. Values of arrays are not in the JSON:
they are stored beside it, and known there by the digest of their bits.

    None, text, int              themselves
    list                         a list
    bool, float, and all else    {"type": ..., ...}: in Python and in JSON 1, 1.0 and true are close
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstore.errors import FormatError
from jaxstore.fingerprint import of_bytes
from jaxstore.names import encode_key
from jaxstore.stores.base import Json
from jaxstore.stores.dtypes import parse_dtype, stored_dtype, to_stored

Array = np.ndarray[Any, Any]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of what a node is made with, another in each process


@dataclass(frozen=True, slots=True)
class EncodedParams:
    """Parameters as they are kept."""

    json: Json
    arrays: dict[str, Array]  # by the name under which their JSON speaks of them


@dataclass(frozen=True, slots=True)
class Opaque:
    """A parameter that only its maker could build again: what was written of it."""

    json: Json


def encode_params(params: Mapping[str, Any]) -> EncodedParams:
    """Parameters as JSON and arrays.

    Args:
        params: By name: None, bool, numbers, text, bytes, tuples, lists, dicts, arrays and scalars
            of NumPy, arrays and typed keys of JAX, enums, dtypes, functions and classes, and
            pytrees of them. A function counts by its name; what it computes is in the program.

    Raises:
        TypeError: One is nothing of these; the message names it.

    >>> encode_params({"width": 3, "mode": None}).json == {"mode": None, "width": 3}
    True
    >>> encode_params({"width": True}).json
    {'width': {'type': 'bool', 'value': True}}
    """
    encoder = _Encoder({})
    found = {}
    for name, value in params.items():
        if type(name) is not str:
            raise TypeError(f"params has the key {name!r}. Give names of keywords, which are text.")
        found[name] = encoder.encode(value, (name,))
    return EncodedParams(found, encoder.arrays)


def decode_params(encoded: Mapping[str, Json], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Parameters as they were given.

    Arrays of JAX come back as those of NumPy. What cannot be built again comes as `Opaque`: pytrees
    of registered types, and functions and enums whose module is not imported or has changed.

    Raises:
        FormatError: This is not what `encode_params` wrote, or an array is absent or damaged.

    >>> found = encode_params({"shape": (2, 0.5), "table": np.arange(3)})
    >>> decode_params(found.json, found.arrays)
    {'shape': (2, 0.5), 'table': array([0, 1, 2])}
    """
    try:
        return {name: _decode(value, arrays) for name, value in encoded.items()}
    except FormatError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"the parameters are damaged ({error!r}). Restore the result from a copy."
        ) from error


def canonical(value: Json) -> str:
    """Equal text for equal JSON.

    >>> canonical({"b": 1, "a": [None]})
    '{"a":[null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class _Encoder:
    """One pass through parameters."""

    arrays: dict[str, Array]

    def encode(self, value: Any, path: tuple[Any, ...]) -> Json:
        if value is None or type(value) in (str, int):
            return value
        if type(value) is list:
            return self._items(value, path)
        if type(value) is tuple:
            return {"type": "tuple", "items": self._items(value, path)}
        if type(value) is dict:
            return self._dict(value, path)
        found = _plain(value)
        if found is not None:
            return found
        if isinstance(value, Enum):
            inner = self.encode(value.value, path)
            return {"type": "enum", "name": _name_of(type(value)), "value": inner}
        if isinstance(value, (np.ndarray, jax.Array)):
            return self._array(value, path)
        return self._node(value, path)

    def _items(self, values: Any, path: tuple[Any, ...]) -> list[Json]:
        return [self.encode(item, (*path, i)) for i, item in enumerate(values)]

    def _dict(self, value: dict[Any, Any], path: tuple[Any, ...]) -> Json:
        # Pairs, since keys need not be text; in an order that does not depend on the dict's.
        pairs = []
        for key, item in value.items():
            if not isinstance(key, (str, int, float, bytes, tuple, Enum, type(None))):
                raise _refused(key, path, "a key", "Use text for keys.")
            pairs.append([self.encode(key, path), self.encode(item, (*path, key))])
        return {"type": "dict", "items": sorted(pairs, key=lambda pair: canonical(pair[0]))}

    def _array(self, value: Any, path: tuple[Any, ...]) -> Json:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = self._array(np.asarray(jax.random.key_data(value)), path)
            return {"type": "key", "impl": str(jax.random.key_impl(value)), "data": data}
        if isinstance(value, np.ma.MaskedArray):
            raise _refused(value, path, "a masked array", "Give its values and its mask.")
        array: Array = np.array(value, order="C")  # a copy: the user may go on writing into theirs
        stored = _stored(array, path)
        name = "/".join(_part(key) for key in path)
        self.arrays[name] = array
        return {
            "type": "array",
            "name": name,
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "sha256": _digest(stored),
        }

    def _node(self, value: Any, path: tuple[Any, ...]) -> Json:
        """A node of a registered type, or what only has a name."""
        tree: Any
        children, tree = jax.tree.flatten(value, is_leaf=lambda node: node is not value)
        if len(children) != 1 or children[0] is not value:
            kind, made_with = tree.node_data() or (type(value), None)
            return {
                "type": "opaque",
                "class": f"{kind.__module__}.{kind.__qualname__}",
                "made_with": self._made_with(made_with, path),
                "children": self._items(children, path),
            }
        if callable(value) and (name := _name_of(value)):
            return {"type": "named", "name": name}
        what = f"a {type(value).__module__}.{type(value).__qualname__}"
        raise _refused(
            value, path, what, "Give numbers, text, arrays, or a registered pytree of them."
        )

    def _made_with(self, value: Any, path: tuple[Any, ...]) -> Json:
        try:
            return self.encode(value, (*path, "made_with"))
        except TypeError:  # anything at all may be the static part of a node
            return {"type": "text", "text": _ADDRESS.sub("", repr(value))}


def _plain(value: Any) -> Json | None:
    """What has a text of its own, None for all else."""
    if type(value) is bool:
        return {"type": "bool", "value": value}
    if type(value) is float:
        return {"type": "float", "value": repr(value)}
    if type(value) is complex:
        return {"type": "complex", "value": [repr(value.real), repr(value.imag)]}
    if type(value) is bytes:
        return {"type": "bytes", "hex": value.hex()}
    if isinstance(value, np.generic) and _is_stored(value.dtype):
        bits = np.asarray(value).astype(value.dtype.newbyteorder("<")).tobytes().hex()
        return {"type": "scalar", "dtype": value.dtype.name, "value": str(value), "bits": bits}
    if isinstance(value, np.dtype) and _is_stored(value):
        return {"type": "dtype", "name": value.newbyteorder("=").name}
    return None


def _stored(array: Array, path: tuple[Any, ...]) -> Array:
    try:
        return to_stored(array)
    except FormatError as error:
        what = f"an array of {array.dtype}"
        advice = "Encode text as integers, or give it as a list." if array.dtype.kind in "US" else (
            str(error).split(". ", 1)[-1]
        )  # fmt: skip
        raise _refused(array, path, what, advice) from None


def _is_stored(dtype: Any) -> bool:
    try:
        stored_dtype(dtype)
    except FormatError:
        return False
    return True


def _digest(stored: Array) -> str:
    little = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).reshape(-1).view(np.uint8)).hexdigest()


def _part(key: Any) -> str:
    """A key as a plain part of a name; of keys that names cannot spell, a digest."""
    try:
        return encode_key(key)
    except (FormatError, TypeError):
        return "key" + of_bytes(repr(key).encode())


def _name_of(value: Any) -> str | None:
    # A ufunc of NumPy 2.1 and before has but the last of these names.
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{module}:{name}" if name else None


def _refused(value: Any, path: tuple[Any, ...], what: str, advice: str) -> TypeError:
    name = f"params[{path[0]!r}]" + "".join(f"[{key!r}]" for key in path[1:])
    shown = repr(value).replace("\n", " ")
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return TypeError(f"{name} has {what}, {shown}, which cannot be compared later. {advice}")


def _decode(value: Json, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if value["type"] not in _DECODERS:
        raise FormatError(
            f"the parameters have a value of type {value['type']!r}, which this jaxstore does not "
            "know. Update jaxstore."
        )
    return _DECODERS[value["type"]](value, arrays)


def _decode_array(value: Json, arrays: Mapping[str, Array]) -> Array:
    found = arrays[value["name"]]
    if [list(found.shape), found.dtype.name] != [value["shape"], value["dtype"]] or _digest(
        to_stored(found)
    ) != value["sha256"]:
        raise FormatError(
            f"the parameter {value['name']!r} is damaged: its values are not those that were "
            "given. Restore the result from a copy."
        )
    return found


def _decode_scalar(value: Json, _: Mapping[str, Array]) -> Any:
    dtype = parse_dtype(value["dtype"])
    little = np.frombuffer(bytes.fromhex(value["bits"]), dtype.newbyteorder("<"))
    return little.astype(dtype)[0]


def _decode_enum(value: Json, arrays: Mapping[str, Array]) -> Any:
    kind = _found(value["name"])
    if not isinstance(kind, type) or not issubclass(kind, Enum):
        return Opaque(value)
    try:
        return kind(_decode(value["value"], arrays))
    except ValueError:  # it has changed since
        return Opaque(value)


def _found(name: str) -> Any:
    """What has a name in a module that is imported; a file must not import what it likes."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _decode_named(value: Json, _: Mapping[str, Array]) -> Any:
    found = _found(value["name"])
    return Opaque(value) if found is None or _name_of(found) != value["name"] else found


_DECODERS: dict[str, Callable[[Json, Mapping[str, Array]], Any]] = {
    "bool": lambda value, _: bool(value["value"]),
    "float": lambda value, _: float(value["value"]),
    "complex": lambda value, _: complex(*map(float, value["value"])),
    "bytes": lambda value, _: bytes.fromhex(value["hex"]),
    "dtype": lambda value, _: parse_dtype(value["name"]),
    "tuple": lambda value, arrays: tuple(_decode(value["items"], arrays)),
    "dict": lambda value, arrays: dict(_decode(pair, arrays) for pair in value["items"]),
    "array": _decode_array,
    "key": lambda value, arrays: jax.random.wrap_key_data(
        jnp.asarray(_decode_array(value["data"], arrays)), impl=value["impl"]
    ),
    "scalar": _decode_scalar,
    "enum": _decode_enum,
    "named": _decode_named,
    "opaque": lambda value, _: Opaque(value),
    "text": lambda value, _: Opaque(value),
}
