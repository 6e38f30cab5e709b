"""The commands: the manual page of each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from marked import code, definitions, fence, prose, sentence
from shadowmmu.cli.commands import cli
from shadowmmu.cli.manual import Manual, manuals


def page() -> str:
    """Return the manual pages."""
    context = click.Context(cli, info_name="shadowmmu")
    return "\n\n".join(_command(*one) for one in manuals(context))


def _command(command: Manual, context: click.Context) -> str:
    path = context.command_path
    label = path.removeprefix("shadowmmu ").replace(" ", "-")
    usage = command.get_usage(context).removeprefix("Usage: ")
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    text = inspect.cleandoc(command.help or "").split("\n\n")
    parts = [
        f"(command-{label})=\n## {path}",
        fence(" ".join(usage.split())),
        *(prose(paragraph) for paragraph in text),
        "**Options**",
        definitions(_options(options, context)),
        "**Exit status**",
        definitions((code(status), sentence(means)) for status, means in command.statuses.items()),
        "**Examples**",
        *(f"{sentence(shows)[:-1]}:\n\n{fence(line)}" for line, shows in command.examples.items()),
    ]
    if command.files:
        parts += [
            "**Files**",
            definitions((code(name), sentence(text)) for name, text in command.files.items()),
        ]
    return "\n\n".join(parts)


def _options(options: list[click.Option], context: click.Context) -> Iterator[tuple[str, str]]:
    for option in options:
        record = option.get_help_record(context)
        if record is not None:
            written, means = record
            yield code(written), sentence(means)
