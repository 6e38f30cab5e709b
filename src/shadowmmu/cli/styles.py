"""What the roles of lines for people look like in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from shadowmmu.show.text.spans import Line, Role

__all__ = ["styled"]

_STYLES: dict[Role, dict[str, Any]] = {
    "title": {"bold": True},
    "op": {"bold": True},
    "good": {"fg": "green"},
    "warning": {"fg": "yellow"},
    "bad": {"fg": "red"},
    "change": {"fg": "cyan"},
}


def styled(lines: Iterable[Line]) -> str:
    """Return lines as text with the terminal's codes; click.echo() removes them where there is none."""
    return "\n".join(
        "".join(click.style(span.text, **_STYLES[span.role]) if span.role else span.text for span in line)
        for line in lines
    )
