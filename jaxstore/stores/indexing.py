"""An index of NumPy's kind, taken apart for arrays that are read by regions.

Owned here: which region has to be read, and what is left to do with it in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def split_index(index: Any, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[Any, ...]]:
    """Part an index into the region to read, of step one, and the index inside that region.

    >>> split_index((slice(10, 20, 5), -1), (100, 4, 3))
    ((slice(10, 20, None), slice(3, 4, None), slice(0, 3, None)), (slice(None, None, 5), 0))
    """
    index = index if isinstance(index, tuple) else (index,)
    if any(i is None for i in index):
        raise IndexError("a stored array takes no new axes; index it, then add them")
    n_given = sum(i is not Ellipsis for i in index)
    if n_given > len(shape):
        raise IndexError(f"{n_given} indices for a stored array of shape {shape}")
    if Ellipsis in [i for i in index if not isinstance(i, np.ndarray | list)]:
        at = next(k for k, i in enumerate(index) if i is Ellipsis)
        middle = (slice(None),) * (len(shape) - n_given)
        index = (*index[:at], *middle, *index[at + 1 :])
    region, inside = [], []
    for axis, n in enumerate(shape):
        outer, inner = _split_axis(index[axis] if axis < len(index) else slice(None), n, axis)
        region.append(outer)
        inside.append(inner)
    return tuple(region), tuple(inside[: len(index)])


def _split_axis(i: Any, n: int, axis: int) -> tuple[slice, Any]:
    if isinstance(i, slice):
        start, stop, step = i.indices(n)
        picked = range(start, stop, step)
        if len(picked) == 0:
            return slice(0, 0), slice(0, 0)
        low, high = min(picked[0], picked[-1]), max(picked[0], picked[-1])
        if step > 0:
            return slice(low, stop), slice(None, None, step)
        return slice(low, high + 1), slice(None, None, step)
    if isinstance(i, int | np.integer) and not isinstance(i, bool):
        if not -n <= i < n:
            raise IndexError(f"index {i} is out of range for axis {axis} of length {n}")
        return slice(int(i) % n, int(i) % n + 1), 0
    return slice(0, n), np.asarray(i)
