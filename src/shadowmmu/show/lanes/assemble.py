"""The page of lanes as one HTML file."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files

from shadowmmu.show.browser.assemble import assembled

from .lanes import Lanes

__all__ = ["lanes_page"]


def lanes_page(lanes: Lanes) -> str:
    """Return the HTML file of lanes."""
    shared = files("shadowmmu.show.browser") / "page"
    own = files("shadowmmu.show.lanes") / "page"
    return assembled(
        title=f"{lanes.name}: {lanes.title}",
        markup=(own / "lanes.html").read_text("utf-8"),
        style=(shared / "page.css").read_text("utf-8") + (own / "lanes.css").read_text("utf-8"),
        scripts=[(shared / "dom.js").read_text("utf-8"), (own / "lanes.js").read_text("utf-8")],
        data=asdict(lanes),
    )
