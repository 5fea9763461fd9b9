"""Which array a source is, for comparing computations.

Owned here: the choice between a stamp, all values, and what the user says. What a stamp is, is
`sources.stamp`'s.
"""

from __future__ import annotations

from typing import Any

from jaxstore.errors import MismatchError
from jaxstore.processing.beside import address_of
from jaxstore.processing.same import SourceIdentity
from jaxstore.sources.fetch import RowSource
from jaxstore.sources.stamp import content, stamp


def identity_of(label: str, place: Any, source: RowSource, *, token: str) -> SourceIdentity:
    """What is compared of one source.

    Args:
        label: Where it is in what the kernel takes.
        place: As the user gave it.
        source: As it was opened.
        token: "stat" for sizes and times of its files; "content" for all its values, which reads
            them; any other text is taken for its state, as a snapshot has a name.
    """
    geometry = source.geometry
    kind, mark = _mark(source, token)
    try:
        where = str(address_of(place))
    except MismatchError:  # in memory, or through a handle
        where = source.location
    return SourceIdentity(
        label=label,
        place=where,
        name=geometry.name,
        shape=geometry.shape,
        dtype=geometry.dtype.name,
        axis=geometry.axis,
        kind=kind,
        mark=mark,
    )


def _mark(source: RowSource, token: str) -> tuple[Any, str]:
    if token not in ("stat", "content"):
        return "token", token
    found = stamp(source) if token == "stat" else None
    return ("content", content(source)) if found is None else ("stat", found)
