"""The tracepoints: when each fires, what it carries, and where it is in the package."""

from __future__ import annotations

from typing import Any

from marked import code, definitions, sentence
from shadowmmu.kvm.tracepoints.event import Tracepoint
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS


def page() -> str:
    """Return the events in the order of the table."""
    return "\n\n".join(_event(tracepoint) for tracepoint in TRACEPOINTS.values())


def _event(tracepoint: Tracepoint[Any]) -> str:
    parts = [f"(event-{tracepoint.name})=\n## {code(tracepoint.name)}", sentence(tracepoint.meaning)]
    lines = tracepoint.lines()
    if lines:
        parts.append(definitions((code(field), sentence(text)) for field, text in lines.items()))
    if tracepoint.kernels:
        parts.append(f"Only in {', '.join(tracepoint.kernels)}.")
    parts.append(f"Class: {code(tracepoint.event.__name__)}.")
    return "\n\n".join(parts)
