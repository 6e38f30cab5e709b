"""The page of a history as one HTML file: markup, style, scripts and data, with nothing to fetch."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files

from shadowmmu.show.history.timeline import Timeline
from shadowmmu.show.reasons.change import Change

from .data import page_data

__all__ = ["SCRIPTS", "page"]

SCRIPTS = ("dom.js", "history.js", "walk.js", "tables.js", "panels.js", "main.js")
"""In the order in which they build on one another."""


def page(timeline: Timeline, changes: Sequence[Change] = ()) -> str:
    """Return the HTML file of a history; `changes` with their reasons are shown with each op."""
    folder = files("shadowmmu.show.browser") / "page"
    read = {name: (folder / name).read_text("utf-8") for name in ("page.html", "page.css", *SCRIPTS)}
    data = json.dumps(page_data(timeline, changes), separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(f"{timeline.name}: {timeline.title}"),
        "STYLE": read["page.css"],
        "DATA": data,
        "SCRIPTS": "\n".join(read[name] for name in SCRIPTS),
    }
    text = read["page.html"]
    for name, part in parts.items():
        before, mark, after = text.partition(f"<!--{name}-->")
        text = before + part + after if mark else text
    return text
