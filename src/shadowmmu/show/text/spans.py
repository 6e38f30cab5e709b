"""Lines for people as pieces of text with roles; whoever prints them decides what a role looks like."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

__all__ = ["Line", "Role", "Span", "fitting", "plain"]

Role = Literal["", "title", "op", "good", "warning", "bad", "change"]
_WIDEST = 200


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line."""

    text: str
    role: Role = ""


Line = tuple[Span, ...]


def plain(line: Line) -> str:
    """Return a line's text."""
    return "".join(span.text for span in line)


def fitting(line: Line, indent: int) -> list[Line]:
    """Return a line, or several without roles if it is too wide; those after the first are indented by more
    than `indent`.
    """
    text = plain(line)
    if len(text) <= _WIDEST:
        return [line]
    head = text[: len(text) - len(text.lstrip())]
    parts = wrap(text.strip(), _WIDEST, initial_indent=head, subsequent_indent=" " * (indent + 4))
    return [(Span(part),) for part in parts]
