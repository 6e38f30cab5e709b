"""Why things changed, as a page carries it: each sentence once, changes with one reason together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from shadowmmu.show.reasons.change import Change
from shadowmmu.show.reasons.report import led_there, reason_text

__all__ = ["ReasonsData"]

Group = tuple[list[str], int, int]
"""The changes in words, and the numbers of the sentences that say why and what led there (-1: nothing)."""


class ReasonsData:
    """Turns changes into the data of a page.

    Attributes:
        sentences: All sentences; data has their numbers.
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        self.sentences: list[str] = []
        self._numbers: dict[str, int] = {}
        self._of_op: dict[int, list[Change]] = {}
        for change in changes:
            self._of_op.setdefault(change.op, []).append(change)

    def of_op(self, op: int) -> list[Any]:
        """Return the changes of an op, in their order; those in a row with one reason are a group."""

        def why(change: Change) -> tuple[str, str]:
            return reason_text(change), led_there(change)

        found: list[Group] = []
        for (reason, led), group in groupby(self._of_op.get(op, ()), why):
            found.append(([_says(change) for change in group], self._number(reason), self._number(led)))
        return [list(group) for group in found]

    def _number(self, sentence: str) -> int:
        if not sentence:
            return -1
        if sentence not in self._numbers:
            self._numbers[sentence] = len(self.sentences)
            self.sentences.append(sentence)
        return self._numbers[sentence]


def _says(change: Change) -> str:
    """Return a change in words; roots and flushes name what they are of themselves."""
    return change.effect if change.kind == "flush" else f"{change.subject} {change.effect}"
