"""Commands whose `--help` is a manual page: besides description and options, exit status, examples, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

__all__ = ["Manual", "manuals"]

_ALWAYS = {
    "2": "The input, an option or a file cannot be used; one line on stderr says which and what helps.",
    "130": "Interrupted by Ctrl-C.",
}
"""Exit statuses that every command has, unless it says otherwise."""


class Manual(click.Command):
    """A command with the sections of a manual page after its options.

    statuses  what each exit status means, beyond 2 and 130
    examples  command lines, each with what it shows
    files     what the command reads or writes by itself
    """

    def __init__(
        self,
        *args: Any,
        statuses: Mapping[str, str],
        examples: Mapping[str, str],
        files: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.statuses = {**statuses, **_ALWAYS, **statuses}
        self.examples = dict(examples)
        self.files = dict(files or {})

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        with formatter.section("Exit status"):
            formatter.write_dl(list(self.statuses.items()))
        with formatter.section("Examples"):
            for number, (line, shows) in enumerate(self.examples.items()):
                if number:
                    formatter.write_paragraph()
                formatter.write_text(f"{shows}:")
                formatter.write_paragraph()
                formatter.write(f"{'':{formatter.current_indent + 2}}{line}\n")
        if self.files:
            with formatter.section("Files"):
                formatter.write_dl(list(self.files.items()))


def manuals(context: click.Context) -> Iterator[tuple[Manual, click.Context]]:
    """Return the commands of a context's group, those of groups in it too, each with its own context.

    Raises TypeError for one that has no manual page.
    """
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, Manual):
            yield command, click.Context(command, info_name=name, parent=context)
        elif isinstance(command, click.Group):
            yield from manuals(click.Context(command, info_name=name, parent=context))
        else:
            raise TypeError(f"{name} must be a Manual (cli/manual.py)")
