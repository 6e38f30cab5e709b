"""`shadowmmu study published`: figures from mails, commits and papers beside the model's."""

from __future__ import annotations

import json
from textwrap import fill
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shadowmmu.study.costs import Costs
    from shadowmmu.study.published import Compared

__all__ = ["PUBLISHED", "QUESTION", "print_published"]

PUBLISHED = "published"
"""Its name among the studies."""
QUESTION = "What was measured on real machines, and what does the model say of the same?"
_WIDTH, _INDENT = 100, "    "


def print_published(costs: Costs, *, as_json: bool) -> None:
    """Measure and print all figures."""
    from shadowmmu.study.published import FIGURES, compare

    found: list[Compared] = []
    try:
        for compared in compare(costs):
            found.append(compared)
            progress(f"{len(found)} of {len(FIGURES)} figures")
    finally:
        progress("")
    if as_json:
        click.echo(json.dumps([one.as_row() for one in found]))
        return
    click.echo(QUESTION)
    for one in found:
        click.echo(f"\n{one.figure.name} ({one.figure.unit})")
        click.echo(f"{_INDENT}published  {one.shown(one.figure.published)}   {one.figure.source}")
        click.echo(f"{_INDENT}ours       {one.shown(one.ours)}")
        click.echo(fill(one.verdict, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT))
    click.echo(f"\n{_summary(found)}")


def _summary(found: Iterable[Compared]) -> str:
    listed = list(found)
    same, close = (sum(getattr(one, name) for one in listed) for name in ("same_direction", "close"))
    return f"Of {len(listed)} figures {same} have the same direction, {close} are within 25%."
