"""A table of text as HTML: it brings its style, and is legible on light and on dark ground."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["MOST_ROWS", "table"]

MOST_ROWS = 100
"""Rows of one table; how many were left out is said below it."""

_STYLE = """\
<style>
table.shadowmmu {border-collapse: collapse; margin: 0.4em 0; color: inherit; background: none;}
table.shadowmmu caption {caption-side: top; text-align: left; font-weight: bold; color: inherit; padding: 0.2em 0.4em;}
table.shadowmmu tr, table.shadowmmu tr:nth-child(odd) {background: none;}
table.shadowmmu tr.marked {background: rgba(224, 160, 0, 0.25);}
table.shadowmmu td, table.shadowmmu th {text-align: left; vertical-align: top; white-space: pre-wrap; color: inherit;
  padding: 0.1em 0.8em 0.1em 0.4em; border: 0; border-bottom: 1px solid rgba(127, 127, 127, 0.4);
  font-family: monospace; font-size: 12px; line-height: 1.4;}
</style>
"""  # noqa: E501


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Iterable[int] = ()
) -> str:
    """Return a table; all text is escaped. `marked` are numbers of rows that stand out, from 0.

    Rows beyond MOST_ROWS are left out.
    """
    rows = list(rows)
    outstanding = set(marked)
    parts = [f'{_STYLE}<table class="shadowmmu"><caption>{escape(caption)}</caption>']
    if any(head):
        parts.append(_row("th", head))
    for number, row in enumerate(rows[:MOST_ROWS]):
        parts.append(_row("td", row, ' class="marked"' if number in outstanding else ""))
    if len(rows) > MOST_ROWS:
        parts.append(_row("td", [f"and {len(rows) - MOST_ROWS:,} more"]))
    return "\n".join([*parts, "</table>\n"])


def _row(tag: str, cells: Iterable[str], attribute: str = "") -> str:
    return f"<tr{attribute}>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
