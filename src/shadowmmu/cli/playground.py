"""`shadowmmu playground`: the model in a browser, as a folder of static files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import make_folder

__all__ = ["playground"]


@click.command(
    cls=Manual,
    short_help="Make a page in which the model runs in a browser, with lessons.",
    statuses={"0": "The folder was written."},
    examples={
        "shadowmmu playground -o playground": "Make the folder; then open playground/index.html in a browser",
        "shadowmmu playground -o playground --pyodide package": "The same with Python for the browser "
        "from an unpacked archive",
    },
    files={
        "$XDG_CACHE_HOME/shadowmmu": "Pyodide, which npm fetches once (without the variable: "
        "~/.cache/shadowmmu).",
    },
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder; files of the same names are replaced.",
)
@click.option(
    "--pyodide",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Take Pyodide, Python for the browser, from this unpacked npm package instead of fetching it.",
)
def playground(*, target: Path, pyodide: Path | None) -> None:
    """Write a folder in which a browser runs the model: scenarios to edit, page tables to look at, lessons.

    index.html opens from the disk and needs neither a network nor a server. Python itself, 5 MB, is fetched
    by npm when the command runs for the first time, from the registry that npm is configured for.
    """
    from shadowmmu.show.playground.build import folder_files
    from shadowmmu.show.playground.runtime import RuntimeUnusable, runtime_files

    try:
        written = folder_files(runtime_files(pyodide))
    except RuntimeUnusable as error:
        raise click.ClickException(str(error)) from None
    make_folder(target)
    for name, contents in written.items():
        _replace(target / name, contents)
    size = sum(map(len, written.values())) / 1e6
    click.echo(f"{target / 'index.html'}: {len(written)} files, {size:.1f} MB; open it in a browser")


def _replace(path: Path, contents: bytes) -> None:
    """Write a file that appears under its name only when it is complete. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".playground.", delete=False) as file:
        try:
            file.write(contents)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
