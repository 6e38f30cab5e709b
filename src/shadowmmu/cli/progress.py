"""One line on stderr that says how far a command is."""

import sys

import click

__all__ = ["progress"]


def progress(text: str) -> None:
    """Write `text` over the line before, if stderr is a terminal; an empty text clears the line."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)
