"""A schedule as columns, one a thread, time downwards: as KVM's developers draw races in mails."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from .explore import Schedule

__all__ = ["diagram"]

GAP = 2
NARROWEST = 16


def diagram(schedule: Schedule, width: int = 100) -> str:
    """Return the columns, at most `width` wide if their words allow; what a store buffer
    writes is in brackets.
    """
    threads = len(schedule.threads)
    titles = [f"CPU {number}: {name}" for number, name in enumerate(schedule.threads, 1)]
    rows = [(number, text) for number, text in schedule.events]
    widths = _widths(titles, rows, threads, width)
    lines = [_line([wrap(title, w) for title, w in zip(titles, widths, strict=True)], widths)]
    lines.append("-" * (sum(widths) + GAP * (threads - 1)))
    for number, text in rows:
        cells: list[list[str]] = [[] for _ in range(threads)]
        cells[number] = wrap(text, widths[number], subsequent_indent="  ")
        lines.append(_line(cells, widths))
    return "\n".join(lines)


def _widths(titles: Sequence[str], rows: Sequence[tuple[int, str]], threads: int, width: int) -> list[int]:
    """Return the columns' widths, those of the texts; the widest columns shrink if that is too much."""
    wanted = [
        max([len(titles[n]), *(len(text) for number, text in rows if number == n)]) for n in range(threads)
    ]
    room = max(width - GAP * (threads - 1), NARROWEST * threads)
    while sum(wanted) > room:
        widest = max(range(threads), key=wanted.__getitem__)
        wanted[widest] -= 1
    return wanted


def _line(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    lines = []
    for row in range(max(map(len, cells))):
        parts = [
            (cell[row] if row < len(cell) else "").ljust(width)
            for cell, width in zip(cells, widths, strict=True)
        ]
        lines.append((" " * GAP).join(parts).rstrip())
    return "\n".join(lines)
