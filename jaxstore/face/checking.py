"""`jaxstore verify`: every chunk of a run, a storage or results, with progress in a terminal.

Owned here: what is shown meanwhile. What is looked at is told by `saving.verify`.
"""

from __future__ import annotations

import sys
from contextlib import closing

from jaxstore.errors import FormatError, MissingError
from jaxstore.face.result_facts import results_of
from jaxstore.face.screen import Screen, bar
from jaxstore.saving.verify import Looked, verify
from jaxstore.sizes import size
from jaxstore.stores.location import open_store
from jaxstore.stores.report import Report, joined
from jaxstore.stores.run_format import MANIFEST


def verify_path(where: str) -> Report:
    """Verify what lies at a path or URL.

    Raises:
        MissingError: Nothing is there.
        FormatError: It is neither a run nor a storage, and holds no results.
    """
    reports = [result.verify() for result in results_of(where)]
    if reports and not holds_run(where):
        return joined(where, reports)
    screen = Screen(sys.stderr)

    def tell(looked: Looked) -> None:
        if screen.is_due:
            screen.draw([line_of(looked)])

    try:
        report = verify(where, tell=tell)
    finally:
        screen.clear()
    return joined(where, [report, *reports]) if reports else report


def holds_run(where: str) -> bool:
    """Whether there is a run or a storage at a place, which may hold results too."""
    try:
        store = open_store(where)
    except (FormatError, MissingError):
        return False
    with closing(store):
        return MANIFEST in store.attrs()


def line_of(looked: Looked) -> str:
    """How far it is, in a line.

    >>> line_of(Looked(2**20, 4 * 2**20, 1))
    'verifying ██████·················· 1.0 MiB of 4.0 MiB, 1 damaged'
    """
    share = looked.n_bytes / max(1, looked.total_bytes)
    found = f", {looked.n_damaged:,} damaged" if looked.n_damaged else ""
    return f"verifying {bar(share)} {size(looked.n_bytes)} of {size(looked.total_bytes)}{found}"
