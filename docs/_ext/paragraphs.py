"""The paragraphs of the specification: their numbers, and links to them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(
    r"^#{2,4} (?:Appendix (?P<letter>[A-F])\.|(?P<number>[0-9]+(?:\.[0-9]+[a-z]?)?)\.? |(?P<part>[LTR])\. )",
    re.MULTILINE,
)
_MENTION = re.compile(r"§(\d+(?:\.\d+[a-z]?)?|[LTR]\b)")


def numbers(text: str) -> Iterator[str]:
    """Return the numbers of a page's paragraphs as they are cited: 4.2, 5.6a, E, T."""
    for heading in _HEADING.finditer(text):
        yield heading["letter"] or heading["number"] or heading["part"]


def linked(text: str, page: str) -> str:
    """Return a page with a target at each paragraph, and its mentions (§4.2) as links."""
    known = set(numbers(text))

    def link(mention: re.Match[str]) -> str:
        number = mention[1]
        return f"[§{number}](#{page}-{number})" if number in known else mention[0]

    def target(heading: re.Match[str]) -> str:
        number = heading["letter"] or heading["number"] or heading["part"]
        return f"({page}-{number})=\n{heading[0]}"

    return _HEADING.sub(target, _MENTION.sub(link, text))
