"""The sample axis of each array of a place: one for all, or by name.

Owned here: which names may have one, the same for every format. What an axis means is `geometry`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jaxstore.errors import MissingError

Axes = int | Mapping[str, int]


def axes_of(axis: Axes, names: Iterable[str], *, location: str) -> dict[str, int]:
    """The sample axis of each array; 0 of those that a mapping does not name.

    Args:
        axis: Of all, or by name.
        names: Of the arrays.
        location: For messages.

    Raises:
        MissingError: An axis is given for none of the arrays.

    >>> axes_of({"y": -1}, ["x", "y"], location="a.zarr")
    {'x': 0, 'y': -1}
    """
    arrays = list(names)
    given = dict.fromkeys(arrays, axis) if isinstance(axis, int) else axis
    if unknown := sorted(set(given) - set(arrays)):
        raise MissingError(
            f"{location}: a sample axis is given for {', '.join(unknown)}, but the arrays are "
            f"{', '.join(arrays) or 'none'}. Correct the name."
        )
    return {name: given.get(name, 0) for name in arrays}
