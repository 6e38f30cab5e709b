"""Check that every link within the built pages leads to a page, file or place that is there.

check_links.py FOLDER: exit status 1, with a line for each broken link, if one is not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}


class _Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)
        if "slider" in self.places:  # a page of `shadowmmu show`: its ops are places, its script shows them
            self.places |= {f"op={op}" for op in re.findall(r'"op":(-?\d+),"text":', text)}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if "id" in given:
            self.places.add(given["id"])
        link = given.get(_LINKS.get(tag, ""))
        if link is not None:
            self.links.append(link)


def broken_links(folder: Path) -> Iterator[str]:
    """Return a line for each link that leads nowhere: the page, and where it should lead."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment).partition("&")[0]
            if not target.is_file() or (place and target in pages and place not in pages[target].places):
                yield f"{path.relative_to(folder.resolve())}: {link}"


def foreign_files(folder: Path) -> Iterator[str]:
    """Return a line for each script, style or image that a page fetches from elsewhere."""
    for path in sorted(folder.rglob("*.html")):
        page = _Loaded(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(folder)}: {link}" for link in page.links if urlsplit(link).netloc)


class _Loaded(_Page):
    """What a page fetches when it is shown, without what it only links to."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a" and ("rel", "canonical") not in attrs:
            super().handle_starttag(tag, attrs)


def main() -> None:
    """Check the folder of the command line."""
    folder = Path(sys.argv[1])
    wrong = [f"{line}: leads nowhere" for line in broken_links(folder)]
    wrong += [f"{line}: is fetched from elsewhere" for line in foreign_files(folder)]
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
