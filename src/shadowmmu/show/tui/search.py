"""Finding ops: by their text, by the events they fired, by what they changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shadowmmu.show.history.timeline import Moment
from shadowmmu.show.text.event_text import event_line

__all__ = ["fired", "matches", "next_op"]


def matches(moment: Moment, text: str) -> bool:
    """Return whether an op's line, its result or one of its events has the text, in any case of letters."""
    wanted = text.lower()
    return (
        wanted in moment.text.lower()
        or wanted in moment.result.get("outcome", "")
        or any(wanted in event_line(event).lower() for event in moment.events)
    )


def fired(moment: Moment, breakpoints: Sequence[str]) -> str | None:
    """Return the first event of an op that has a breakpoint's text in its name or fields, or None."""
    for event in moment.events:
        line = event_line(event)
        if any(wanted.lower() in line.lower() for wanted in breakpoints):
            return line
    return None


def next_op(
    moments: Sequence[Moment], start: int, direction: int, wanted: Callable[[Moment], bool]
) -> int | None:
    """Return the next op after `start` in a direction, 1 or -1, that is wanted, or None."""
    position = start + 1 + direction
    while 0 <= position < len(moments):
        if wanted(moments[position]):
            return moments[position].op
        position += direction
    return None
