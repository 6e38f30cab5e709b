"""Long lists for people: entries and addresses in runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["address_runs", "entry_runs", "runs"]

_LEAST = 4
"""Shorter runs are listed one by one."""
_MAPPED = re.compile(r"(gpa:)([0-9a-f]+)(\|[0-9a-f]+)")
_UNITS = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


def entry_runs(entries: Sequence[tuple[int, str]]) -> list[str]:
    """Return entries of a table as words, `[3]=none`, those that continue in equal steps as one."""
    words: list[str] = []
    for first, last, step in runs([(index, _place(value)) for index, value in entries], 1):
        index, value = entries[first]
        end, _ = entries[last]
        if first == last:
            words.append(f"[{index}]={value}")
            continue
        match = _MAPPED.fullmatch(value)
        if match is None or not step:
            words.append(f"[{index}..{end}] = {value}")
        else:
            words.append(f"[{index}..{end}] = {match[1]}{match[2]}.. +{_size(step)} {match[3]}")
    return words


def address_runs(addresses: Sequence[str]) -> list[str]:
    """Return addresses of pages, consecutive ones as `0x1000..0x8000`."""
    places = [(int(address, 16) >> 12, ("", 0)) for address in addresses]
    return [
        addresses[first] if first == last else f"{addresses[first]}..{addresses[last]}"
        for first, last, _ in runs(places, 1)
    ]


def _place(value: str) -> tuple[str, int]:
    """Return what is equal in the entries of a run, and what grows."""
    match = _MAPPED.fullmatch(value)
    return (value, 0) if match is None else (match[3], int(match[2], 16))


def runs(places: Sequence[tuple[int, tuple[str, int]]], stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield runs as (first, last, step): indexes grow by `stride`, places by a step of their own."""
    first = 0
    while first < len(places):
        last = first
        step = places[first + 1][1][1] - places[first][1][1] if first + 1 < len(places) else 0
        while last + 1 < len(places) and _follows(places[last], places[last + 1], stride, step):
            last += 1
        if last - first + 1 < _LEAST:
            yield first, first, 0
            first += 1
        else:
            yield first, last, step
            first = last + 1


def _follows(
    one: tuple[int, tuple[str, int]], two: tuple[int, tuple[str, int]], stride: int, step: int
) -> bool:
    return two[0] - one[0] == stride and two[1][0] == one[1][0] and two[1][1] - one[1][1] == step


def _size(step: int) -> str:
    for unit, letter in _UNITS:
        if step % unit == 0:
            return f"{step // unit}{letter}"
    return f"{step:#x}"
