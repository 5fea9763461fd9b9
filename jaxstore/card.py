"""How an object shows itself in a notebook: a heading, facts, a table of its arrays.

Owned here: HTML, and that nothing in it is taken for HTML. What is told is each object's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_LEFT = ' style="text-align: left; vertical-align: top"'
_LABEL_WIDTH = 8  # of plain text


def card(
    title: str,
    facts: Mapping[str, str],
    arrays: Iterable[tuple[str, tuple[int, ...], Any]] = (),
    *,
    share: float | None = None,
) -> str:
    """An object as HTML, in the colours of the page.

    Args:
        title: What it is, and where.
        facts: More of it; those without a word are left out.
        arrays: Name, shape and dtype of each.
        share: How much of it is there, in 0 to 1; shown while that is less than 1.

    >>> card("run at a.zarr", {"draws": "2", "settings": ""})[:33]
    '<div><b>run at a.zarr</b><table><'
    """
    bar = "" if share is None or share >= 1 else f' <progress value="{share:.3f}"></progress>'
    told = [_row([name, fact], "th", "td") for name, fact in facts.items() if fact]
    rows = [_row([name, _shape(shape), str(dtype)], "td", "td") for name, shape, dtype in arrays]
    head = [_row(["array", "shape", "dtype"], "th", "th")] * bool(rows)
    tables = "".join(f"<table>{''.join(part)}</table>" for part in (told, head + rows) if part)
    return f"<div><b>{escape(title)}</b>{bar}{tables}</div>"


def lines(title: str, facts: Mapping[str, str]) -> str:
    """The same as plain text, without arrays.

    >>> print(lines("run at a.zarr", {"draws": "2"}))
    run at a.zarr
      draws    2
    """
    told = (f"  {name:{_LABEL_WIDTH}} {fact}" for name, fact in facts.items() if fact)
    return "\n".join([title, *told])


def _row(cells: Sequence[str], first: str, other: str) -> str:
    tags = [first] + [other] * (len(cells) - 1)
    parts = (f"<{t}{_LEFT}>{escape(c)}</{t}>" for t, c in zip(tags, cells, strict=True))
    return f"<tr>{''.join(parts)}</tr>"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in shape) or "scalar"
