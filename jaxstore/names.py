"""Pytree keys as plain path parts, and back.

Owned here: how one dict key, of whatever type and spelling, becomes one part of a path that no
file system, object store, HDF5 or Zarr reads as anything else, and how keys lie in a manifest.
Which keys lead to which leaf is `tree`'s.

    theta, mlp_1     plain already: [A-Za-z0-9_~-], and not "__..."
    a%2Fb            a byte of UTF-8 that is not plain, with capital digits
    %i3              a tag, a small letter that is no hex digit, tells what is no text:
                     i int, r float, o bool, n None, x bytes, l ... z tuple, s text (in a tuple,
                     or empty)
    aaaa...%h1f0c    longer than 200 bytes: cut, with a hash; only a manifest knows the true key
"""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from numbers import Integral
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from jaxstore.errors import FormatError

Key = str | int | float | bytes | tuple[Any, ...] | None  # a tuple holds keys again

MAX_BYTES = 200  # file systems end at 255; the rest is left to suffixes of temporary files
_PREFIX_BYTES = 120  # of a cut name: enough to recognise it by
_HASH_DIGITS = 32  # 128 bits: no two keys of one tree meet by chance

_TEXT = r"(?:[A-Za-z0-9_~-]|%[0-9A-F]{2})*"
_TOKEN = re.compile(rf"%([a-z])({_TEXT})")
_SPELLING = re.compile(rf"(?:%[a-z]{_TEXT})+")


def encode_key(key: Key, *, reserved: frozenset[str] = frozenset(), fold_case: bool = False) -> str:
    """One plain path part for a key; different keys give different parts.

    Args:
        key: Text of any kind, a number, bytes, None, or a tuple of those.
        reserved: Plain names that are taken; a key that would give one, in small letters or
            capitals, has its first letter escaped.
        fold_case: Escape capitals too, for a key that has a sibling differing only by case.

    >>> encode_key("mlp_1"), encode_key("a/b"), encode_key(".."), encode_key("")
    ('mlp_1', 'a%2Fb', '%2E%2E', '%s')
    >>> encode_key(3), encode_key("3"), encode_key((0.5, None))
    ('%i3', '3', '%l%r0%2E5%n%z')
    >>> encode_key("chain", reserved=frozenset({"chain"}))
    '%63hain'
    """
    name = _spell(key).removeprefix("%s") or "%s"
    if fold_case:
        name = re.sub("%[0-9A-F]{2}|[A-Z]", lambda m: m[0] if m[0][0] == "%" else _hex(m[0]), name)
    # Zarr keeps names that begin with "__" for itself.
    if name.startswith("__") or name.lower() in {taken.lower() for taken in reserved}:
        name = _hex(name[0]) + name[1:]
    if len(name) > MAX_BYTES:
        whole = re.sub("%[0-9A-F]?$", "", name[:_PREFIX_BYTES])  # never half of an escape
        name = f"{whole}%h{sha256(name.encode()).hexdigest()[:_HASH_DIGITS]}"
    return name


def decode_key(name: str) -> Key:
    """The key that `encode_key` made this part from.

    >>> decode_key("a%2Fb"), decode_key("%i3"), decode_key("%63hain")
    ('a/b', 3, 'chain')
    """
    if "%h" in name:
        raise FormatError(
            f"{name!r} is a shortened name: it holds a hash of its key, not the key. "
            f"Read the key from the manifest."
        )
    if not name:
        raise FormatError("'' is not a name that encode_key gives; the empty text is '%s'.")
    return _parse(name if re.match("%[a-z]", name) else f"%s{name}")


def keys_to_json(keys: Iterable[Key]) -> list[Any]:
    """Keys as JSON values, for a manifest; what JSON cannot say is spelled out.

    >>> keys_to_json(("a/b", 3, None, 0.5))
    ['a/b', 3, None, {'key': '%r0%2E5'}]
    """
    return [_to_json(key) for key in keys]


def keys_from_json(values: Sequence[Any]) -> tuple[Key, ...]:
    """The keys that `keys_to_json` made these values from.

    >>> keys_from_json(["a/b", 3, None, {"key": "%r0%2E5"}])
    ('a/b', 3, None, 0.5)
    """
    return tuple(_from_json(value) for value in values)


def _spell(key: Key) -> str:
    """The key in plain letters and escapes, whole and with its tag."""
    match key:
        case None:
            return "%n"
        case bool():
            return f"%o{key:d}"
        case Integral():  # NumPy's integers too: they equal Python's as dict keys
            return f"%i{int(key)}"
        case float():
            return "%r" + _escape(repr(float(key)).encode())
        case bytes():
            return "%x" + _escape(key)
        case str():
            return "%s" + _escape(key.encode("utf-8", "surrogatepass"))
        case tuple():
            return f"%l{''.join(map(_spell, key))}%z"
    raise FormatError(
        f"a dict key of type {type(key).__name__} cannot name an array: {key!r}. "
        f"Use str, int, float, bool, bytes, None or a tuple of them."
    )


def _parse(spelling: str) -> Key:
    """The key that `_spell` spelled."""
    if not _SPELLING.fullmatch(spelling):
        raise FormatError(f"{spelling!r} is not a name that encode_key gives.")
    tuples: list[list[Key]] = [[]]  # the open ones, innermost last; the first holds the key
    for tag, text in _TOKEN.findall(spelling):
        if tag == "l" and not text:
            tuples.append([])
        elif tag == "z" and not text and len(tuples) > 1:
            closed = tuple(tuples.pop())
            tuples[-1].append(closed)
        else:
            tuples[-1].append(_value(tag, text))
    if len(tuples) != 1 or len(tuples[0]) != 1:
        raise FormatError(f"{spelling!r} spells no key, or several.")
    return tuples[0][0]


def _value(tag: str, text: str) -> Key:
    data = unquote_to_bytes(text)
    try:
        match tag:
            case "n" if not text:
                return None
            case "o" if text in ("0", "1"):
                return text == "1"
            case "i":
                return int(text)
            case "r":
                return float(data)
            case "x":
                return data
            case "s":
                return data.decode("utf-8", "surrogatepass")
    except ValueError as error:
        raise FormatError(f"'%{tag}{text}' spells no key: {error}") from error
    raise FormatError(f"'%{tag}{text}' spells no key.")


def _to_json(key: Key) -> Any:
    match key:
        case None | bool():
            return key
        case Integral():
            return int(key)
        # JSON joins two lone surrogates to one character, so they are spelled.
        case str() if not re.search("[\ud800-\udfff]", key):
            return key
    return {"key": _spell(key)}


def _from_json(value: Any) -> Key:
    match value:
        case None | bool() | int() | str():
            return value
        case {"key": str(spelling)} if len(value) == 1:
            return _parse(spelling)
    raise FormatError(f"{value!r} is not a key as keys_to_json writes it.")


def _escape(data: bytes) -> str:
    return quote_from_bytes(data, safe="").replace(".", "%2E")


def _hex(letter: str) -> str:
    return f"%{ord(letter):02X}"
