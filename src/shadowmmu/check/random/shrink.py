"""Delta debugging: the smallest list that still fails (after Zeller and Hildebrandt), simpler operands."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence

__all__ = ["lines_up_to", "shrink", "simpler_lines"]

SHORT = 64
"""Fewer items are not tried by their ends."""

Fails = Callable[[Sequence[str]], bool]

_NUMBER = re.compile(r"0x[0-9a-f]+")


def shrink(items: Sequence[str], fails: Fails, deadline: float) -> list[str]:
    """Return a part of `items`, in order, that still fails and of which no single item can go; what there
    is at the deadline (time.monotonic).
    """
    kept = _end_of(items, fails, deadline)
    size = len(kept) // 2
    while size and time.monotonic() < deadline:
        at, shorter = 0, False
        while at < len(kept) and time.monotonic() < deadline:
            candidate = kept[:at] + kept[at + size :]
            if fails(candidate):
                kept, shorter = candidate, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(size // 2, 1)
    return kept


def _end_of(items: Sequence[str], fails: Fails, deadline: float) -> list[str]:
    """Return the last of very many items, if they fail by themselves."""
    size = SHORT
    while size < len(items) and time.monotonic() < deadline:
        if fails(items[-size:]):
            return list(items[-size:])
        size *= 2
    return list(items)


def lines_up_to(lines: Sequence[str], op: int) -> list[str]:
    """Return the lines of the first ops, up to number `op`; lines that are only for the
    next op have no number.
    """
    last = -1
    for at, line in enumerate(lines):
        last += not line.startswith("meanwhile ")
        if last == op:
            return list(lines[: at + 1])
    return list(lines)


def simpler_lines(lines: Sequence[str], fails: Fails, deadline: float) -> list[str]:
    """Return the same lines with simpler operands where these still fail."""
    kept = list(lines)
    for number in range(len(kept)):
        simpler = True
        while simpler and time.monotonic() < deadline:
            simpler = False
            for line in _simpler(kept[number]):
                candidate = [*kept[:number], line, *kept[number + 1 :]]
                if fails(candidate):
                    kept, simpler = candidate, True
                    break
    return kept


def _simpler(line: str) -> Iterator[str]:
    """Yield simpler forms of a line: on vCPU 0, by the kernel, with rounder numbers."""
    if line.startswith("@1 "):
        yield line[3:]
    word, *rest = line.split()
    if word in ("uread", "uwrite", "uxchg", "uadd", "unop"):
        yield " ".join((word[1:], *rest))
    if word in ("xchg", "add"):
        yield " ".join(("write", *rest))
    for match in _NUMBER.finditer(line):
        value = int(match[0], 16)
        for rounder in (0, value & ~0xFFF, value & ~7):
            if rounder != value:
                yield f"{line[: match.start()]}{rounder:#x}{line[match.end() :]}"
