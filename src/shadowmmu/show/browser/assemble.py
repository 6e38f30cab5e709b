"""The page of a history as one HTML file: markup, style, scripts and data, with nothing to fetch."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from shadowmmu.show.history.timeline import Timeline
from shadowmmu.show.reasons.change import Change

from .data import page_data

__all__ = ["SCRIPTS", "assembled", "page"]

SCRIPTS = ("dom.js", "history.js", "walk.js", "tables.js", "panels.js", "main.js")
"""In the order in which they build on one another."""


def page(timeline: Timeline, changes: Sequence[Change] = ()) -> str:
    """Return the HTML file of a history; `changes` with their reasons are shown with each op."""
    folder = files("shadowmmu.show.browser") / "page"
    return assembled(
        title=f"{timeline.name}: {timeline.title}",
        markup=(folder / "page.html").read_text("utf-8"),
        style=(folder / "page.css").read_text("utf-8"),
        scripts=[(folder / name).read_text("utf-8") for name in SCRIPTS],
        data=page_data(timeline, changes),
    )


def assembled(*, title: str, markup: str, style: str, scripts: Sequence[str], data: Mapping[str, Any]) -> str:
    """Return one HTML file: `markup` with its parts in place of its marks. Nothing in `data` is markup."""
    parts = {
        "TITLE": html.escape(title),
        "STYLE": style,
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "SCRIPTS": "\n".join(scripts),
    }
    text = markup
    for name, part in parts.items():
        before, mark, after = text.partition(f"<!--{name}-->")
        text = before + part + after if mark else text
    return text
