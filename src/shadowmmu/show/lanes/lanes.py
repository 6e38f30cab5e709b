"""What happened where, in the order of time: runs of one thing, each with a lane for every CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Lanes", "Run", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done in one lane."""

    lane: int
    text: str
    details: Sequence[str] = ()
    """Lines on what it did."""
    wrong: Sequence[str] = ()
    """Lines on what was found wrong after it; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run, under one setting."""

    name: str
    verdict: str
    good: bool
    """Whether nothing is wrong with it."""
    lanes: Sequence[str]
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Lanes:
    """All runs of one thing."""

    name: str
    title: str
    about: Sequence[tuple[str, str]]
    """What is to be known of it: name and text."""
    runs: Sequence[Run]
