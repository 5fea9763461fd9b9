"""`jaxstore verify`: every chunk of a run, a storage or results, with progress in a terminal.

Owned here: what is shown meanwhile. What is looked at is told by `saving.verify`.
"""

from __future__ import annotations

import sys
import time

from jaxstore.face.result_facts import results_of
from jaxstore.face.screen import Screen, bar
from jaxstore.saving.verify import Looked, verify
from jaxstore.sizes import size
from jaxstore.stores.report import Report, joined

SHOW_EVERY_S = 0.1


def verify_path(where: str) -> Report:
    """Verify what lies at a path or URL.

    Raises:
        MissingError: Nothing is there.
        FormatError: It is neither a run nor a storage, and holds no results.
    """
    if results := results_of(where):
        return joined(where, [result.verify() for result in results])
    screen, shown_at = Screen(sys.stderr), 0.0

    def tell(looked: Looked) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= SHOW_EVERY_S:
            shown_at = time.monotonic()
            screen.draw([line_of(looked)])

    try:
        return verify(where, tell=tell)
    finally:
        screen.clear()


def line_of(looked: Looked) -> str:
    """How far it is, in a line.

    >>> line_of(Looked(2**20, 4 * 2**20, 1))
    'verifying ██████·················· 1.0 MiB of 4.0 MiB, 1 damaged'
    """
    share = looked.n_bytes / max(1, looked.total_bytes)
    found = f", {looked.n_damaged:,} damaged" if looked.n_damaged else ""
    return f"verifying {bar(share)} {size(looked.n_bytes)} of {size(looked.total_bytes)}{found}"
