"""Which shadow page of one history is which of the other: by what they are, not by their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from shadowmmu.trace.names import State

__all__ = ["Pairing"]

_NAME = re.compile(r"\bS\d+\b")
_ROLE_INVALID = 1 << 11

_Page = Mapping[str, Any]


class Pairing:
    """Pairs of shadow pages that are alive on both sides, followed from op to op.

    Two pages are one if role, gfn and the way from the root to them are equal; failing that, if role and gfn
    are; failing that, if level, gfn, quadrant and kind are.
    """

    def __init__(self) -> None:
        self._left_of: dict[str, str] = {}

    def follow(self, left: State, right: State) -> None:
        """Pair the pages of the states after an op; pairs of which both pages are alive stay."""
        ours, theirs = left.get("sps", {}), right.get("sps", {})
        taken = {name for mine, name in self._left_of.items() if mine in theirs and name in ours}
        left_free = {name: page for name, page in ours.items() if name not in taken}
        right_free = {name: page for name, page in theirs.items() if self._left_of.get(name) not in ours}
        for identity in (_by_place(ours, theirs), _by_role, _by_kind):
            self._pair(left_free, right_free, identity)

    def _pair(
        self,
        left: dict[str, _Page],
        right: dict[str, _Page],
        identity: Callable[[str, _Page, bool], Hashable],
    ) -> None:
        """Pair and take out the pages whose identity is equal, in the order in which they were made."""
        waiting: dict[Hashable, list[str]] = {}
        for name in sorted(left, key=_number):
            waiting.setdefault(identity(name, left[name], True), []).append(name)
        for name in sorted(right, key=_number):
            same = waiting.get(identity(name, right[name], False))
            if same:
                self._left_of[name] = partner = same.pop(0)
                del left[partner], right[name]

    def in_left_names(self, text: str) -> str:
        """Return a text of the right side with the left side's names; pages that it lacks get a prime."""
        return _NAME.sub(lambda match: self._left_of.get(match[0], f"{match[0]}'"), text)


def _number(name: str) -> int:
    return int(name[1:])


def _by_role(name: str, page: _Page, left: bool) -> Hashable:  # noqa: FBT001
    return page["gfn"], int(page["role"], 16) & ~_ROLE_INVALID


def _by_kind(name: str, page: _Page, left: bool) -> Hashable:  # noqa: FBT001
    return page["gfn"], page["level"], page.get("quadrant", 0), page.get("direct", 0), page.get("tdp", 0)


def _by_place(
    left: Mapping[str, _Page], right: Mapping[str, _Page]
) -> Callable[[str, _Page, bool], Hashable]:
    def identity(name: str, page: _Page, of_left: bool) -> Hashable:  # noqa: FBT001
        return _by_role(name, page, of_left), _way(name, left if of_left else right)

    return identity


def _way(name: str, pages: Mapping[str, _Page]) -> tuple[str, ...]:
    """Return the indexes on the way from a root to a page, by its first parents."""
    way: list[str] = []
    seen = {name}
    while pages[name]["parents"]:
        above, _, index = pages[name]["parents"][0].partition("[")
        way.append(index)
        if above not in pages or above in seen:
            break
        seen.add(above)
        name = above
    return tuple(reversed(way))
