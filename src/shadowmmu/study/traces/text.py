"""Traces as text, a record in each line."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from .accesses import Block, TraceError
from .source import Source

__all__ = ["TextFormat", "numbered_lines"]

CHUNK = 1 << 20
_MOST_KNOWN = 1 << 18
"""Lines whose accesses are remembered, at most, before those of a chunk are added."""
_SHOWN = 60


Parsed = tuple[bytes, tuple[int, ...]]
"""Kinds and addresses."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """A format.

    Attributes:
        name: Its name.
        record: Matches a line that is a record, without its end.
        ignored: Matches a line that says nothing about accesses.
        add: Appends the accesses of a record, given as the groups of `record`.
        remedy: What makes a trace that can be read.
    """

    name: str
    record: re.Pattern[bytes]
    ignored: re.Pattern[bytes]
    add: Callable[[Block, Sequence[bytes]], None]
    remedy: str

    def fits(self, head: bytes) -> bool:
        """Return whether the first line that is not ignored is a record."""
        for line in head.splitlines():
            if not self.ignored.fullmatch(line):
                return self.record.fullmatch(line) is not None
        return False

    def blocks(self, source: Source) -> Iterator[Block]:
        """Return the accesses. Raises TraceError, OSError."""
        known: dict[bytes, Parsed] = {}
        for first, lines in numbered_lines(source):
            if len(known) > _MOST_KNOWN:
                known.clear()
            for line in dict.fromkeys(lines):
                if line in known:
                    continue
                parsed = self._parsed(line)
                if parsed is None:
                    raise TraceError(
                        f"{source.name}:{first + lines.index(line)}: {_shown(line)} is not a record of "
                        f"{self.name}; {self.remedy}"
                    )
                known[line] = parsed
            found = [known[line] for line in lines]
            yield Block(
                array("B", b"".join([kinds for kinds, _ in found])),
                array("Q", list(chain.from_iterable([addresses for _, addresses in found]))),
            )

    def _parsed(self, line: bytes) -> Parsed | None:
        """Return the accesses of a line, which programs in loops repeat; None if it is not a record."""
        block = Block()
        found = self.record.fullmatch(line)
        if found is not None:
            self.add(block, found.groups())
        elif not self.ignored.fullmatch(line):
            return None
        return block.kinds.tobytes(), tuple(block.addresses)


def numbered_lines(source: Source) -> Iterator[tuple[int, list[bytes]]]:
    """Return lines without their ends, many at a time, with the number of the first of them.

    Raises TraceError, OSError.
    """
    number, rest = 1, b""
    while chunk := source.read(CHUNK):
        whole, end, rest = (rest + chunk).rpartition(b"\n")
        if end:
            lines = whole.split(b"\n")
            yield number, lines
            number += len(lines)
        elif len(rest) > CHUNK:
            raise TraceError(f"{source.name}:{number}: the line is longer than {CHUNK} bytes; it is no trace")
    if rest:
        yield number, [rest]


def _shown(line: bytes) -> str:
    text = line.decode("ascii", "backslashreplace")
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
