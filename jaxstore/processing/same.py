"""What makes two computations the same, and words for what makes them differ.

Owned here: the record of all that decides the bits of a result. Engines, workers, memory and
batches are no part of it, nor is the version of JAX as long as it makes the same program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from jaxstore.errors import MismatchError
from jaxstore.fingerprint import of_bytes
from jaxstore.processing.params import canonical
from jaxstore.stores.base import Json

_DIGITS = 8  # of a digest, for people


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Which array items come from."""

    label: str  # where it is in what the kernel takes, "" for one array alone
    place: str  # of its store
    name: str  # inside
    shape: tuple[int, ...]
    dtype: str
    axis: int  # of the items
    # By what changes are told: a stamp, all values, or a text of the user's. Equal values are the
    # same wherever they lie; a stamp or a token speaks of one place.
    kind: Literal["stat", "content", "token"]
    mark: str

    def key(self, *, is_growing: bool) -> Json:
        """What is compared."""
        shape: list[int | None] = list(self.shape)
        if is_growing:
            shape[self.axis] = None
        found: dict[str, Json] = {"label": self.label, "shape": shape, "dtype": self.dtype}
        if self.kind != "content":
            found |= {"place": self.place, "name": self.name}
        return found | {"axis": self.axis, "kind": self.kind, "mark": self.mark}


@dataclass(frozen=True, slots=True)
class Computation:
    """All that decides the bits of a result."""

    name: str
    program: str  # fingerprint
    jax: str  # the version that made the program
    version: str | None  # the user's; where there is one it stands for the program
    params: Json
    sources: tuple[SourceIdentity, ...]
    selection: str | None = None  # digest of the items taken, None for all
    reduce: str | None = None  # name or fingerprint
    channels: Json = None  # axis and block, where channels are computed in blocks
    cast: Json = None  # what values are cast to before they are computed with
    is_growing: bool = False  # whether more items are the same computation, further on

    def to_json(self) -> dict[str, Json]:
        """This record for a manifest."""
        found = asdict(self)
        found["sources"] = [
            {**source, "shape": list(source["shape"])} for source in found["sources"]
        ]
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Json]) -> Computation:
        """A record out of a manifest.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is none.
        """
        sources = tuple(
            SourceIdentity(**{**source, "shape": tuple(map(int, source["shape"]))})
            for source in found["sources"]
        )
        names = [field.name for field in fields(cls)]
        return cls(**{**{name: found[name] for name in names}, "sources": sources})

    @property
    def addresses(self) -> tuple[str, ...]:
        """Places of the sources."""
        return tuple(source.place for source in self.sources)

    @property
    def fingerprint(self) -> str:
        """Equal for equal computations, in any process."""
        key = {
            "name": self.name,
            "program": self.program if self.version is None else None,
            "version": self.version,
            "params": self.params,
            "sources": [source.key(is_growing=self.is_growing) for source in self.sources],
            **{name: getattr(self, name) for name in _SETTINGS},
            "is_growing": self.is_growing,
        }
        return of_bytes(canonical(key).encode())


_SETTINGS = {
    "selection": "the items selected",
    "reduce": "reduce",
    "channels": "the blocks of channels",
    "cast": "the dtype of the items",
}


def differences(there: Computation, here: Computation) -> list[str]:
    """What differs between two computations, in words; nothing exactly for equal fingerprints.

    Args:
        there: Of a result.
        here: That is asked for.

    >>> import dataclasses
    >>> one = Computation("peak", "0f", "0.12.0", None, {"width": 3}, ())
    >>> differences(one, dataclasses.replace(one, params={"width": 5}))
    ['params.width is 3 there and 5 here']
    """
    if there.fingerprint == here.fingerprint:
        return []
    found = list(_params("params", _items(there.params), _items(here.params)))
    found += _sources(there, here)
    if there.name != here.name:
        found.append(f"the name is {there.name!r} there and {here.name!r} here")
    for field, word in _SETTINGS.items():
        old, new = getattr(there, field), getattr(here, field)
        if canonical(old) != canonical(new):
            found.append(f"{word}: {_told(old)} there and {_told(new)} here")
    if there.is_growing != here.is_growing:
        found.append("only one of them may get more items")
    if there.version != here.version:
        old, new = _versioned(there), _versioned(here)
        found.append(f"{old} there and {new} here")
    # Parameters and shapes are in the program: where one of them differs, it says nothing more.
    elif there.version is None and there.program != here.program and not found:
        other = f", or another version of JAX: {there.jax} there, {here.jax} here"
        other = other if there.jax != here.jax else ""
        found.append(f"the program differs (edited kernel or helper{other})")
    return found


def check_same(told: Mapping[str, Json], here: Computation) -> None:
    """Refuse to work with processes that compute something else.

    Args:
        told: The computation of the process that owns the result, as JSON.
        here: That of this process.

    Raises:
        MismatchError: They differ.
    """
    there = Computation.from_json(told)
    if there.fingerprint != here.fingerprint:
        raise MismatchError(
            f"this process would compute something else than the one that owns the result: "
            f"{'; '.join(differences(there, here))}. Give all processes the same call, source, "
            "and versions."
        )


def shown(value: Json) -> str:
    """One encoded parameter for people.

    >>> shown({"type": "float", "value": "0.5"}), shown(["a", None])
    ('0.5', "['a', None]")
    """
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    writer = _WORDS.get(value["type"])
    return f"a {value['type']}" if writer is None else writer(value)


_WORDS: dict[str, Any] = {
    "bool": lambda v: str(v["value"]),
    "float": lambda v: v["value"],
    "complex": lambda v: str(complex(*map(float, v["value"]))),
    "bytes": lambda v: repr(bytes.fromhex(v["hex"])),
    "tuple": lambda v: f"({', '.join(map(shown, v['items']))}{',' * (len(v['items']) == 1)})",
    "dict": lambda v: f"{{{', '.join(f'{shown(k)}: {shown(i)}' for k, i in v['items'])}}}",
    "array": lambda v: f"{v['dtype']}{v['shape']} {v['sha256'][:_DIGITS]}",
    "key": lambda v: f"key<{v['impl']}>{v['data']['shape'][:-1]} {v['data']['sha256'][:_DIGITS]}",
    "scalar": lambda v: f"{v['dtype']}({v['value']})",
    "dtype": lambda v: f"dtype({v['name']})",
    "enum": lambda v: f"{v['name'].partition(':')[2]}({shown(v['value'])})",
    "named": lambda v: v["name"].replace(":", "."),
    "opaque": lambda v: f"{v['class']}({', '.join(map(shown, v['children']))})",
    "text": lambda v: v["text"],
}


def _params(path: str, old: Mapping[str, Json], new: Mapping[str, Json]) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        place = f"{path}{key}"
        if key not in new:
            yield f"{place} is {shown(old[key])} there and not given here"
        elif key not in old:
            yield f"{place} is not given there and {shown(new[key])} here"
        elif canonical(old[key]) != canonical(new[key]):
            yield from _values(place, old[key], new[key])


def _values(place: str, old: Json, new: Json) -> Iterator[str]:
    before, now = _inside(old), _inside(new)
    are_alike = _kind(old) == _kind(new) and len(before or ()) == len(now or ())
    if are_alike and before is not None and now is not None:
        yield from _params(place, before, now)
    elif shown(old) != shown(new):
        yield f"{place} is {shown(old)} there and {shown(new)} here"
    else:
        yield f"{place} differs, though it is {shown(old)} in both"


def _items(params: Json) -> dict[str, Json]:
    return {f".{name}": value for name, value in params.items()}


def _inside(value: Json) -> dict[str, Json] | None:
    """The values in a container by what follows its path, None for other values."""
    kind = _kind(value)
    if kind == "dict":
        return {f"[{shown(key)}]": item for key, item in value["items"]}
    if kind in ("list", "tuple"):
        return {f"[{i}]": v for i, v in enumerate(value if kind == "list" else value["items"])}
    return None


def _kind(value: Json) -> str:
    if isinstance(value, list):
        return "list"
    return str(value["type"]) if isinstance(value, dict) else type(value).__name__


def _sources(there: Computation, here: Computation) -> Iterator[str]:
    if len(there.sources) != len(here.sources):
        yield f"there are {len(there.sources)} sources there and {len(here.sources)} here"
        return
    for old, new in zip(there.sources, here.sources, strict=True):
        growing = there.is_growing and here.is_growing
        if old.key(is_growing=growing) != new.key(is_growing=growing):
            yield _source(old, new)


def _source(old: SourceIdentity, new: SourceIdentity) -> str:
    what = f"{new.label}: " if new.label else ""
    is_same_place = (old.place, old.name) == (new.place, new.name)
    if old.kind == new.kind and not is_same_place:
        return (
            f"{what}another source: {old.name} in {old.place} there, {new.name} in {new.place} here"
        )
    for field in ("label", "axis", "dtype", "shape"):
        if getattr(old, field) != getattr(new, field):
            return (
                f"{what}{new.name} has {field} {getattr(old, field)!r} there and "
                f"{getattr(new, field)!r} here"
            )
    if old.kind != new.kind:
        return f"{what}{new.name} was compared by {old.kind} there, and is by {new.kind} here"
    return f"{what}{new.name} was changed since"


def _versioned(of: Computation) -> str:
    return "the program counts" if of.version is None else f"version is {of.version!r}"


def _told(value: Json) -> str:
    return "none" if value is None else str(value)
