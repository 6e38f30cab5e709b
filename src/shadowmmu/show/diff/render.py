"""A difference for people: two columns, equal ops folded, a table of counters, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from textwrap import wrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .difference import CounterPair, Difference, OpPair

__all__ = ["print_difference"]

_LONGEST_LINE = 400
_SHORTEST_FOLD = 3


def print_difference(console: Console, difference: Difference, verdict: str, *, show_equal: bool) -> None:
    """Print a difference; `show_equal`: what is equal, too."""
    width = (console.width - 3) // 2
    _print_row(console, (difference.left, "bold cyan"), "|", (difference.right, "bold magenta"), width)
    for line in _ops(difference.ops, show_equal=show_equal):
        if isinstance(line, Text):
            console.print(line)
        else:
            _print_pair(console, *line, width)
    console.print()
    console.print(_counters(difference, show_equal=show_equal))
    console.print()
    console.print(Text(verdict, style="bold"))


def _print_pair(console: Console, left: str, right: str, width: int) -> None:
    if left == right:
        _print_row(console, (left, "dim"), " ", (right, "dim"), width)
    else:
        mark = "<" if not right else ">" if not left else "|"
        _print_row(console, (left, "cyan"), mark, (right, "magenta"), width)


def _print_row(
    console: Console, left: tuple[str, str], mark: str, right: tuple[str, str], width: int
) -> None:
    """Print two cells, text and style each, with the mark between their first lines."""
    cells = [_wrapped(text, width) for text, _ in (left, right)]
    for number, (one, other) in enumerate(zip_longest(*cells, fillvalue="")):
        row = Text(f"{one:<{width}}", style=left[1])
        row.append(f" {' ' if number else mark} ", style="bold")
        row.append(other, style=right[1])
        console.print(row, overflow="ignore", no_wrap=True, crop=False)


def _wrapped(text: str, width: int) -> list[str]:
    shown = text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ..."
    return wrap(shown, width, subsequent_indent="    ", break_on_hyphens=False) or [""]


def _ops(ops: Sequence[OpPair], *, show_equal: bool) -> Iterator[Text | tuple[str, str]]:
    """Return headings, and rows of two lines."""
    for equal, group in groupby(ops, key=lambda pair: pair.equal and not show_equal):
        pairs = list(group)
        if equal:
            yield _folded(pairs)
            continue
        for pair in pairs:
            yield Text(f"{pair.op:5} {pair.text}", style="bold")
            yield from pair.rows if show_equal else _without_equal(pair.rows)


def _folded(pairs: Sequence[OpPair]) -> Text:
    first, last = pairs[0].op, pairs[-1].op
    which = f"op {first}" if first == last else f"ops {first}..{last}"
    return Text(f"      {which} equal", style="dim")


def _without_equal(rows: Sequence[tuple[str, str]]) -> Iterator[Text | tuple[str, str]]:
    """Yield the rows, runs of equal ones as their number."""
    for equal, group in groupby(rows, key=lambda row: row[0] == row[1]):
        held = list(group)
        if equal and len(held) > _SHORTEST_FOLD:
            yield held[0]
            yield Text(f"      {len(held) - 1} lines equal", style="dim")
        else:
            yield from held


def _counters(difference: Difference, *, show_equal: bool) -> Table:
    """Return the totals that people read first, and all others that differ."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("counter", overflow="fold")
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column("right", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    for pair in difference.counters:
        if pair.left == pair.right and pair.label == pair.name and not show_equal:
            continue
        style = "dim" if pair.left == pair.right else "bold"
        table.add_row(pair.label, f"{pair.left:,}", f"{pair.right:,}", _ratio(pair), style=style)
    return table


def _ratio(pair: CounterPair) -> str:
    if pair.left == pair.right:
        return "="
    return "new" if pair.ratio is None else f"{pair.ratio:.2f}"
