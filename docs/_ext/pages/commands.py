"""The commands: the manual page of each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from marked import code, definitions, fence, prose, sentence
from shadowmmu.cli.commands import cli


def page() -> str:
    """Return the manual pages."""
    context = click.Context(cli, info_name="shadowmmu")
    names = cli.list_commands(context)
    return "\n\n".join(_command(cli.get_command(context, name), context) for name in names)


def _command(command: click.Command | None, parent: click.Context) -> str:
    assert command is not None
    context = click.Context(command, info_name=command.name, parent=parent)
    usage = command.get_usage(context).removeprefix("Usage: ")
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    text = inspect.cleandoc(command.help or "").split("\n\n")
    parts = [
        f"(command-{command.name})=\n## shadowmmu {command.name}",
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
