"""Cases of independent choices: some of them by default, all of them in the slow suite."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def in_turn(*choices: Iterable[Any], every: int) -> list[Any]:
    """All combinations as parameters; one in `every` is not slow.

    Where no choice has fewer members than `every`, each member is in one that is not slow.
    """
    numbered = product(*(enumerate(choice) for choice in choices))
    return [
        pytest.param(
            *(value for _, value in pairs),
            marks=pytest.mark.slow if sum(i for i, _ in pairs) % every else (),
        )
        for pairs in numbered
    ]
