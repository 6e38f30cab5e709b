"""Histories to look at: links to the pages that are made with the documentation, and what to see there."""

from __future__ import annotations

from histories import FOLDER, HISTORIES, History
from marked import code

_UP = ".."


def page() -> str:
    """Return a section for each history."""
    return "\n\n".join(_section(history) for history in HISTORIES)


def _section(history: History) -> str:
    lines = [
        f"## {history.title}",
        f"{_link(history, '', 'Open the page')} of the recording {code(history.name)}.",
    ]
    places = []
    for place in history.places:
        address = f"#op={place.op}" + (f"&{place.link}" if place.link else "")
        places.append(f"- {_link(history, address, f'op {place.op}')}: {place.says}")
    return "\n\n".join([*lines, "\n".join(places)])


def _link(history: History, address: str, text: str) -> str:
    target = f"{_UP}/{FOLDER}/{history.name}.html{address}".replace("&", "&amp;")
    return f'<a href="{target}">{text}</a>'
