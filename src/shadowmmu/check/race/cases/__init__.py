"""The programs, in the order of the protocol's description."""

from __future__ import annotations

from ..case import Case
from . import (
    candidates,
    fast_fault,
    layout,
    lockless,
    memslots,
    model_code,
    model_log,
    notifier,
    requests,
    roots,
    tdp,
    unsync,
)

__all__ = ["ALL"]


def _place(case: type[Case]) -> tuple[int, int, str]:
    kind, digits, letter = (
        ("C", case.name[3:], "") if case.name.startswith("R-c") else (case.name[0], case.name[1:], "")
    )
    if digits[-1].isalpha():
        digits, letter = digits[:-1], digits[-1]
    return ("RTC".index(kind), int(digits), letter)


_MODULES = (
    candidates,
    fast_fault,
    layout,
    lockless,
    memslots,
    model_code,
    model_log,
    notifier,
    requests,
    roots,
    tdp,
    unsync,
)

ALL = tuple(sorted((case for module in _MODULES for case in module.CASES), key=_place))
