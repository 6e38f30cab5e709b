"""The tracepoints: when each fires, what it carries, and a line of its text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from markdown import code, sentence

from shadowmmu.kvm.state.tracepoints import Tracer
from shadowmmu.trace import events
from shadowmmu.trace.events import Event


def page() -> str:
    """Return the events in the order of the table."""
    return "\n\n".join(_event(event) for event in _events(Event) if getattr(event, "name", ""))


def _events(base: type[Event]) -> Iterator[type[Event]]:
    for kind in vars(events).values():
        if inspect.isclass(kind) and issubclass(kind, base) and not inspect.isabstract(kind):
            if "name" in vars(kind) and kind.__module__ == events.__name__:
                yield kind


def _event(kind: type[Event]) -> str:
    fires = inspect.getdoc(getattr(Tracer, kind.name, None)) or ""
    carried = ", ".join(code(field.name) for field in fields(kind)) if is_dataclass(kind) else ""
    parts = [f"(event-{kind.name})=\n### {code(kind.name)}"]
    if fires:
        parts.append(sentence(fires))
    parts.append(f"Fields: {carried or 'none'}. Class: {code(kind.__name__)}.")
    return "\n\n".join(parts)
