"""The way of a fault as a figure."""

from __future__ import annotations

from fault_way import STEPS
from svg import arrow, box, figure, text

_LEFT, _WIDTH, _STEP, _HEIGHT = 10, 420, 46, 34


def page() -> str:
    """Return the figure: a box for each function in order of the calls."""
    parts = []
    for number, (file, function, says) in enumerate(STEPS):
        y = 10 + number * _STEP
        parts += [
            box(_LEFT, y, _WIDTH, _HEIGHT),
            text(_LEFT + 10, y + 14, file, "room"),
            text(_LEFT + 10, y + 29, f"{function}()", "mono"),
            text(_LEFT + _WIDTH + 18, y + 21, says),
        ]
        if number:
            parts.append(arrow(_LEFT + 30, y - _STEP + _HEIGHT, _LEFT + 30, y - 1))
    return figure(770, 10 + len(STEPS) * _STEP, "The way of a read fault through the files", parts)
