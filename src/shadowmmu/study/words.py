"""Words for the verdicts of studies."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["change", "least", "listed", "ratio", "span", "time_change"]


def ratio(larger: float, smaller: float) -> str:
    """Return how many times one number is another: "3.1 times"; in words if the second is 0."""
    if not smaller:
        return "infinitely many times" if larger else "as many"
    times = larger / smaller
    return f"{times:.0f} times" if times >= 10 else f"{times:.1f} times"


def span(seconds: float) -> str:
    """Return a time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def least(values: Mapping[str, float]) -> str:
    """Return the name with the least value, the first of equals."""
    return min(values, key=lambda name: values[name])


def listed(words: list[str]) -> str:
    """Return words as a list in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def change(new: float, old: float, *, same: str = "as many", less: str = "fewer", more: str = "more") -> str:
    """Return how a number compares with another: "as many", "41% fewer", "12% more", "3.1 times as many"."""
    if new == old:
        return same
    if not old:
        return f"{more}, {new:,.0f} instead of none"
    if not new:
        return "none"
    share = abs(new - old) / old
    if new >= 2 * old:
        return f"{ratio(new, old)} {same}"
    return f"{share:.0%} {less if new < old else more}" if share >= 0.005 else f"practically {same}"


def time_change(new: float, old: float) -> str:
    """Return how a time compares with another, in the same way."""
    return change(new, old, same="as much time", less="less time", more="more time")
